// The table of all cases: every op that core/ops exports, with operands, domain and definition.
import * as fused from '../../core/ops/fused.ts';
import * as index from '../../core/ops/index.ts';
import * as map from '../../core/ops/map.ts';
import * as product from '../../core/ops/matmul.ts';
import * as move from '../../core/ops/move.ts';
import * as reduce from '../../core/ops/reduce.ts';
import * as sparse from '../../core/ops/sparse.ts';
import * as triangle from '../../core/ops/triangle.ts';
import type { Case } from './arbitraries.ts';
import { fusedCases } from './casesFused.ts';
import { mapCases } from './casesMap.ts';
import { indexCases, matmulCases, moveCases, reduceCases } from './casesMove.ts';
import { sparseCases } from './casesSparse.ts';
import { triangleCases } from './casesTriangle.ts';

export const cases: readonly Case[] = [
  ...mapCases,
  ...reduceCases,
  ...matmulCases,
  ...moveCases,
  ...indexCases,
  ...fusedCases,
  ...sparseCases,
  ...triangleCases,
];

/** Names of all functions that the op files export. */
export const exported: readonly string[] = [map, reduce, product, move, index, fused, sparse, triangle].flatMap((file) =>
  Object.entries(file).flatMap(([name, value]) => (typeof value === 'function' ? [name] : [])),
);
