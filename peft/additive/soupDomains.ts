// Which adapters go into a soup: those of the domains that a new domain's texts are like, by clusters or by cosines of embeddings.
// Chronopoulou et al. 2023, arXiv 2302.07027, §2.3: 100 texts of each domain and of the new one, at most 5 adapters.
import { gaussianMixture, type MixtureOptions, shares } from '../mixture.ts';

/** One embedding for each text. */
export type Embeddings = readonly (readonly number[])[];
/** The chosen, best first: indices of domains, equals in their order. */
const best = (scores: readonly number[], least: number, most: number): number[] =>
  [...scores.keys()]
    .filter((k) => scores[k]! >= least)
    .sort((a, b) => scores[b]! - scores[a]! || a - b)
    .slice(0, most);

function check(domains: readonly Embeddings[], novel: Embeddings): void {
  const width = novel[0]?.length;
  if (domains.length === 0 || width === undefined || [...domains, novel].some((d) => d.length === 0 || d.some((x) => x.length !== width)))
    throw new RangeError('adapterSoup: every domain and the new one need at least one text, and embeddings of one width');
}

/**
 * By sentence similarity: domains whose mean cosine with the new one, over all pairs of texts, is at least `least`. The authors embed with
 * Sentence-BERT. Empty when none is: then the base is used as it is.
 */
export function similarDomains(
  domains: readonly Embeddings[],
  novel: Embeddings,
  { least = 0.15, most = 5 }: { readonly least?: number; readonly most?: number } = {},
): number[] {
  check(domains, novel);
  const direction = (texts: Embeddings): number[] => {
    const unit = texts.map((x) => {
      const norm = Math.hypot(...x);
      return x.map((v) => v / norm);
    });
    return unit[0]!.map((_, i) => unit.reduce((s, x) => s + x[i]!, 0) / unit.length);
  };
  const target = direction(novel); // the mean cosine of all pairs is the product of the mean directions
  const cosines = domains.map((d) => direction(d).reduce((s, v, i) => s + v * target[i]!, 0));
  return best(cosines, least, most);
}

/**
 * By clusters, the authors' best: one mixture of Gaussians over all domains' texts, with as many components as domains. A cluster is the
 * domain's that most of its texts come from. Chosen are domains to whose clusters at least the share `least` of the new texts goes. The
 * authors embed with the language model itself. Whether they reduce dimensions first is not in the text we have; here nothing is reduced.
 */
export function clusteredDomains(
  domains: readonly Embeddings[],
  novel: Embeddings,
  { least = 0.1, most = 5, ...options }: { readonly least?: number; readonly most?: number } & MixtureOptions = {},
): number[] {
  check(domains, novel);
  const mixture = gaussianMixture(domains.flat(), domains.length, options);
  const clusters = (texts: Embeddings): number[] => {
    const found = domains.map(() => 0);
    for (const r of shares(mixture, texts).shares) found[r.indexOf(Math.max(...r))]!++;
    return found;
  };
  const sources = domains.map(clusters); // [domain][cluster]
  const owners = domains.map(
    (_, c) =>
      best(
        sources.map((found) => found[c]!),
        1,
        1,
      )[0],
  ); // undefined for an empty cluster
  const counts = clusters(novel);
  return best(
    domains.map((_, k) => counts.reduce((n, m, c) => n + (owners[c] === k ? m : 0), 0) / novel.length),
    least,
    most,
  );
}
