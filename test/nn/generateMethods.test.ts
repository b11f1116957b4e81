// Every method of the library generates with the cache what it generates without one: on one of two decoders by turns.
import { decodeAlike } from './decodesAlike.ts';

decodeAlike(true);
