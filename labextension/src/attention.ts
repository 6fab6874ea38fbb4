/** A person's attention: warned before a reclaim, and data asked for early when they turn to a notebook. */

import { Notification } from '@jupyterlab/apputils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { CommandRegistry } from '@lumino/commands';

import { warnedOf } from './select/changes';
import { keepChoices, type KeepChoice } from './select/keep';
import { nameIn, timeInWords } from './select/words';
import { CommandIDs, type IGpuReclaim } from './tokens';
import type { Instant, Kernel } from './types';

const ASK_AGAIN_MS = 30_000;
const UNDATED_MS = 30_000;
const LEGIBLE_MS = 10_000;
const MOST_AT_ONCE = 3;

interface Told {
  warnedAt: string;
  notification: string;
}

/**
 * Tells of each kernel that is about to be reclaimed because it is idle, with "keep" as the action: once, and for as long
 * as the warning stands. Nothing is told before `ready`: JupyterLab shows no notification that came before its own part
 * for these, and a page that is opened late must not miss a warning given earlier.
 */
export class Warnings {
  private readonly told = new Map<string, Told>(); // by kernel

  constructor(
    private readonly gpuReclaim: IGpuReclaim,
    private readonly commands: CommandRegistry,
    ready: Promise<void>
  ) {
    void ready.then(() => {
      gpuReclaim.model.changed.connect(this.tell, this);
      gpuReclaim.preferences.changed.connect(this.tell, this);
      this.tell();
    });
  }

  private tell(): void {
    const { model, preferences } = this.gpuReclaim;
    const { status } = model.state;
    if (!status) {
      return;
    }
    const standing = preferences.warnings ? warnedOf(status) : [];
    this.takeBack(new Map(standing.map(kernel => [kernel.kernel_id, kernel.warned_at])));
    const untold = standing.filter(kernel => !this.told.has(kernel.kernel_id));
    if (untold.length > MOST_AT_ONCE) {
      this.remember(untold, this.warnOfMany(untold.length));
    } else {
      const keep = keepChoices(status.policy, model.now(), this.gpuReclaim.language.trans)[0];
      untold.forEach(kernel => this.remember([kernel], this.warn(kernel, keep)));
    }
  }

  /** Dismiss what is no longer true: kept, used or reclaimed since, or warned anew. */
  private takeBack(standing: Map<string, Instant | null | undefined>): void {
    const over = [...this.told].filter(([kernelId, { warnedAt }]) => standing.get(kernelId) !== warnedAt);
    over.forEach(([kernelId]) => this.told.delete(kernelId));
    const still = new Set([...this.told.values()].map(({ notification }) => notification));
    over.map(([, { notification }]) => notification).forEach(id => still.has(id) || Notification.dismiss(id));
  }

  private remember(kernels: Kernel[], notification: string): void {
    kernels.forEach(({ kernel_id, warned_at }) => this.told.set(kernel_id, { warnedAt: warned_at ?? '', notification }));
  }

  private warnOfMany(count: number): string {
    const { trans } = this.gpuReclaim.language;
    return Notification.warning(trans.__('%1 idle notebooks give their GPU memory back soon; their next cells bring it back.', count), {
      autoClose: UNDATED_MS,
      actions: [{ label: trans.__('Show'), callback: () => void this.commands.execute(CommandIDs.showSidebar) }]
    });
  }

  private warn(kernel: Kernel, keep: KeepChoice | undefined): string {
    const { trans } = this.gpuReclaim.language;
    const now = this.gpuReclaim.model.now();
    const due = kernel.due_at === null ? null : new Date(kernel.due_at);
    const when = due === null ? trans.__('soon') : trans.__('at %1', timeInWords(due, now));
    const text = trans.__('%1 is idle and gives its GPU memory back %2; its next cell brings it back.', nameIn(kernel.label), when);
    const args = { kernelId: kernel.kernel_id, seconds: keep?.seconds ?? 0 };
    return Notification.warning(text, {
      autoClose: due === null ? UNDATED_MS : Math.max(LEGIBLE_MS, due.getTime() - now.getTime()),
      actions: keep
        ? [{ label: trans.__('Keep'), caption: keep.label, callback: () => void this.commands.execute(CommandIDs.keep, args) }]
        : []
    });
  }
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
