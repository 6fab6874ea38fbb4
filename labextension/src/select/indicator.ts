/** A notebook's GPU in a few words, for its toolbar and the status bar. Pure. */

import type { Kernel, Status } from '../types';
import { heldBytes, reclaimedBytes } from './cards';
import { rowOf, rowsOf, type RowState } from './rows';
import { bytesInWords, type Language } from './words';

export interface Indicator {
  state: RowState;
  text: string;
  title: string;
  progress: number | null;
}

const IN_THE_WAY: readonly RowState[] = ['waiting', 'restoring'];
const WITH_BYTES: readonly RowState[] = ['running', 'resident', 'kept', 'left-alone'];

/** Null where there is nothing to say: the notebook holds nothing on a GPU. */
export function indicatorOf(kernel: Kernel | undefined, status: Status, now: Date, language: Language): Indicator | null {
  if (!kernel) {
    return null;
  }
  const row = rowOf(kernel, status.policy, now, language);
  if (row.state === 'empty') {
    return null;
  }
  const what = WITH_BYTES.includes(row.state) ? row.bytes : row.badge;
  return { state: row.state, text: language.trans.__('GPU %1', what), title: row.why || what, progress: row.progress };
}

/** The status bar's words: who waits or comes back, else what is held and what was won back. Null without a GPU. */
export function statusBarOf(status: Status, now: Date, language: Language): Indicator | null {
  if (!status.gpus?.length) {
    return null;
  }
  const { trans, units } = language;
  const busy = rowsOf(status, now, language).find(row => IN_THE_WAY.includes(row.state));
  if (busy) {
    return { state: busy.state, text: `${busy.name}: ${busy.badge}`, title: busy.why || busy.badge, progress: busy.progress };
  }
  const held = trans.__('GPU %1', bytesInWords(heldBytes(status), units));
  const wonBack = reclaimedBytes(status);
  const text = wonBack > 0 ? `${held} · ${trans.__('won back %1', bytesInWords(wonBack, units))}` : held;
  return { state: 'resident', text, title: trans.__('Open the GPU sidebar'), progress: null };
}
