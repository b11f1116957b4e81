// Every method of the library generates with the cache what it generates without one, on both decoders.
import { decodeAlike } from './decodesAlike.ts';

decodeAlike(false);
