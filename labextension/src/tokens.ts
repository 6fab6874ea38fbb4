/** Names that other parts of Jupyter know us by, and what our own parts share. */

import { Token } from '@lumino/coreutils';

import type { Model } from './model';
import type { Preferences } from './preferences';
import type { Language } from './select/words';

export const EXTENSION = 'jupyter-gpu-reclaim';
export const TRANSLATION = 'jupyter_gpu_reclaim';
export const PLUGIN = `${EXTENSION}:plugin`;
export const SIDEBAR = 'gpu-reclaim-sidebar';
export const LOG = 'gpu-reclaim-log';
export const INDICATOR = 'gpu-reclaim';

/** Each takes `kernelId`; without it, the kernel of the notebook in front is meant. */
export namespace CommandIDs {
  export const reclaim = 'gpu-reclaim:reclaim-notebook';
  export const restore = 'gpu-reclaim:restore-notebook';
  export const keep = 'gpu-reclaim:keep-notebook';
  export const unkeep = 'gpu-reclaim:unkeep-notebook';
  export const open = 'gpu-reclaim:open-notebook';
  export const refresh = 'gpu-reclaim:refresh-status';
  export const showSidebar = 'gpu-reclaim:show-sidebar';
  export const showLog = 'gpu-reclaim:show-log';
  export const followLink = 'gpu-reclaim:follow-link';
}

/** The one model of the page, and how its user likes to see it. */
export interface IGpuReclaim {
  readonly model: Model;
  readonly preferences: Preferences;
  /** The page's language and the user's units, as they are now. */
  readonly language: Language;
}

export const IGpuReclaim = new Token<IGpuReclaim>(
  `${EXTENSION}:IGpuReclaim`,
  'What is known about GPUs and who holds them, for whoever shows it.'
);
