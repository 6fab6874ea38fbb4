/** A person's attention: warned before a reclaim, and data asked for early when they turn to a notebook. */

import { Notification } from '@jupyterlab/apputils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';

import type { Change, Model } from './model';
import { newWarnings } from './select/changes';
import { keepChoices, type KeepChoice } from './select/keep';
import { nameIn, timeInWords } from './select/words';
import { CommandIDs, type IGpuReclaim } from './tokens';
import type { Kernel } from './types';

const ASK_AGAIN_MS = 30_000;
const MOST_AT_ONCE = 3;

/** Shows a notification for each kernel that is about to be reclaimed because it is idle, with "keep" as its action. */
export function warnBeforeReclaims(gpuReclaim: IGpuReclaim, commands: CommandRegistry): void {
  const { trans } = gpuReclaim.language;
  gpuReclaim.model.changed.connect((_: Model, { before, now }: Change) => {
    if (!gpuReclaim.preferences.warnings || !now.status) {
      return;
    }
    const warned = newWarnings(before, now);
    if (warned.length > MOST_AT_ONCE) {
      Notification.warning(trans.__('%1 idle notebooks give their GPU memory back soon; their next cells bring it back.', warned.length), {
        autoClose: ASK_AGAIN_MS,
        actions: [{ label: trans.__('Show'), callback: () => void commands.execute(CommandIDs.showSidebar) }]
      });
      return;
    }
    const keep = keepChoices(now.status.policy, new Date(), trans)[0];
    warned.forEach(kernel => warn(kernel, keep, trans, commands));
  });
}

function warn(kernel: Kernel, keep: KeepChoice | undefined, trans: TranslationBundle, commands: CommandRegistry): void {
  const due = kernel.due_at === null ? null : new Date(kernel.due_at);
  const when = due === null ? trans.__('soon') : trans.__('at %1', timeInWords(due, new Date()));
  const text = trans.__('%1 is idle and gives its GPU memory back %2; its next cell brings it back.', nameIn(kernel.label), when);
  const callback = (): void => void commands.execute(CommandIDs.keep, { kernelId: kernel.kernel_id, seconds: keep?.seconds ?? 0 });
  Notification.warning(text, {
    autoClose: due === null ? ASK_AGAIN_MS : Math.max(1000, due.getTime() - Date.now()),
    actions: keep ? [{ label: trans.__('Keep'), caption: keep.label, callback }] : []
  });
}

/** Asks for a reclaimed notebook's data when it comes to the front or is typed in, now and then at most. */
export class EarlyRestore {
  private readonly asked = new Map<string, number>();

  constructor(
    private readonly gpuReclaim: IGpuReclaim,
    tracker: INotebookTracker
  ) {
    tracker.currentChanged.connect((_, panel) => this.turnTo(panel));
    tracker.widgetAdded.connect((_, panel) => {
      panel.context.model.contentChanged.connect(() => {
        if (tracker.currentWidget === panel) {
          this.turnTo(panel);
        }
      });
    });
  }

  private turnTo(panel: NotebookPanel | null): void {
    const id = panel?.sessionContext.session?.kernel?.id;
    const { model, preferences } = this.gpuReclaim;
    const kernel = model.state.status?.kernels.find(kernel => kernel.kernel_id === id);
    if (!preferences.earlyRestore || kernel?.phase !== 'reclaimed' || kernel.waiting > 0) {
      return;
    }
    const last = this.asked.get(kernel.kernel_id) ?? 0;
    if (Date.now() - last >= ASK_AGAIN_MS) {
      this.asked.set(kernel.kernel_id, Date.now());
      void model.prefetch(kernel.kernel_id);
    }
  }
}
