// Notes on updates of other forms than LoRA.
import { abstract, claim, DEBERTA, gsm, type Notes, PAIR } from './note.ts';

export const reparameterized: Notes = {
  miss: {
    use: 'One small matrix repeated over the input’s blocks.',
    reports: [gsm(48.7, '7.3 M'), gsm(38.0, '0.23 M', ' (“mini”)')],
    count: 'r·out at each layer',
  },
  bone: {
    use: 'MiSS’s block form that uses the weight itself.',
    reports: [gsm(50.4, '7.3 M', ' (“bat”)')],
    count: 'r·out at each layer',
  },
  hira: {
    use: 'A change of high rank from few numbers.',
    reports: [gsm(51.3, '9.2 M', ', rank 32')],
    count: PAIR,
  },
  loha: {
    use: 'Rank up to r² from twice LoRA’s numbers.',
    reports: [gsm(39.3, '18.4 M', ', rank 32')],
  },
  lokr: {
    use: 'Few numbers: the factors of a Kronecker product.',
    reports: [gsm(46.6, '2.3 M')],
  },
  krona: {
    use: 'A Kronecker product may have full rank with few numbers.',
    reports: [claim('T5 on GLUE: better than other such methods')],
  },
  oft: {
    use: 'Rotates inputs, which keeps lengths of and angles between a weight’s rows.',
    reports: [`${DEBERTA}: 89.77 with 0.79 M (16 blocks)`, gsm(49.1, '8.2 M')],
  },
  boft: {
    use: 'Rotations through several sparse factors: more inputs mix than in one block-diagonal rotation of as many numbers.',
    reports: [`${DEBERTA}: 89.89 with 0.75 M`, gsm(34.3, '0.80 M')],
  },
  hra: {
    use: 'Rotations by a few mirrors: in·r numbers, and no matrix to invert.',
    reports: [claim('Language models and conditional image generators: better than other adaptations, with fewer numbers')],
  },
  fourierft: {
    use: 'A thousand coefficients per layer, whatever its size.',
    reports: [
      'RoBERTa-base, six GLUE tasks: 85.0 with 0.024 M, VeRA 85.2 with 0.043 M, full fine-tuning 85.2 (as a later paper reprints it)',
      gsm(9.6, '0.28 M', ', 5000 coefficients'),
    ],
  },
  did: {
    use: 'Measures a task: the smallest dimension in which tuning reaches 90 % of full fine-tuning. Dense, for small networks.',
    reports: [abstract('RoBERTa on MRPC: 200 numbers reach 90 % of full fine-tuning')],
  },
  said: {
    use: 'As DID, with a fast projection, for networks of any size.',
    reports: [abstract('RoBERTa on MRPC: 200 numbers reach 90 % of full fine-tuning; not told apart from DID')],
  },
  c3a: {
    use: 'A change of high rank from in·out/b numbers, computed by Fourier transforms. The block must divide both sizes, and it does not start as the base.',
    reports: [gsm(48.8, '5.5 M')],
  },
  psoft: {
    use: 'Rotation as in OFT for about r²/2 numbers, inside the weight’s principal directions. The start costs a decomposition of every weight, whose two factors are stored.',
    reports: [gsm(44.9, '1.9 M')],
  },
  deft: {
    use: 'Something is to be taken out of a weight and not only added to it; with `removal` nothing is put in its place. Both halves multiply the whole weight in every step.',
    reports: [gsm(48.2, '9.2 M')],
  },
  peanut: {
    use: 'A change that depends on the weight in a nonlinear way, from LoRA’s number of scalars. Every step reads the whole weight; merged it costs nothing.',
  },
  waveft: {
    use: 'A chosen number of coefficients per layer, whatever its size, and no low rank. As `fourierft`, but each moves one small patch of the weight and not all of it.',
    reports: [gsm(40.3, '0.28 M')],
  },
  osf: {
    use: 'One task after another without forgetting: the directions that the weight uses most stay as they are. It trains about as many numbers as full fine-tuning.',
    reports: [
      abstract('Tasks one after another, T5-large and LLaMA-2-7B: up to 7 % above O-LoRA on average, and next to nothing is forgotten'),
    ],
  },
  adamss: {
    use: 'Few numbers inside the weight’s own principal directions, with another small LoRA for each group of alike outputs. It costs a decomposition and a k-means of every weight before training.',
    reports: [gsm(34.5, '0.29 M')],
  },
  frod: {
    use: 'A change of full rank for about as many numbers as a layer has inputs and a few more. All weights of a kind are taken apart together first, and the bases are stored.',
    reports: [gsm(50.9, '5.5 M')],
  },
  road: {
    use: 'One or a few numbers for each output, applied element by element, so that it is cheap even unmerged; merged it costs nothing.',
    reports: [gsm(38.5, '0.23 M', ' (RoAd₂)')],
  },
  nola: {
    use: 'To store very little: 2k numbers for each layer whatever rank and size, since the random matrices come from the seed. Both factors are summed anew from k matrices in every step.',
    reports: [abstract('LLaMA-2-70B: almost 20 times smaller than LoRA of rank one without loss of accuracy')],
  },
  kAdaptation: {
    use: 'Fewer numbers than LoRA where layers are alike: all of one name share a part of the update. The paper made it for vision transformers.',
    reports: [claim('20 sets of images with few examples and 7 with all: the best trade between accuracy and numbers')],
  },
  hiwi: {
    use: 'Only biases shall be stored, but a small network shall find them: once merged the size of that network costs nothing. It needs networks that have those biases.',
    reports: [abstract('0.03 % of what full fine-tuning stores, with the best results among those compared')],
  },
  peqa: {
    use: 'One network in few bits for many tasks: the codes are shared and each task stores its scales, still packed when merged. Scales move whole groups of a weight, which is coarser than LoRA.',
    reports: [
      claim(
        'Up to 65 thousand million parameters: below four bits, language modelling and comprehension come back to those in full precision',
      ),
    ],
  },
  bitDelta: {
    use: 'Many fully tuned copies of one network are to be stored: a bit for each weight and a scale for each layer in the place of a copy. It saves nothing while tuning.',
    reports: [
      abstract('LLaMA-2 and Mistral up to 70B: little is lost in one bit, and many tuned copies take less than a tenth of the GPU memory'),
    ],
  },
};
