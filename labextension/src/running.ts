/** A section of the Running panel: the notebooks that hold GPU memory or have given it back. */

import type { IRunningSessions } from '@jupyterlab/running';
import { notebookIcon, type LabIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ISignal } from '@lumino/signaling';

import { reclaimIcon } from './components/icons';
import type { Model } from './model';
import { rowsOf, type Row } from './select/rows';
import { CommandIDs, type IGpuReclaim } from './tokens';

/** What the panel calls "shutting down" is reclaiming here: no kernel is ended. */
export class RunningOnGpu implements IRunningSessions.IManager {
  readonly name: string;
  readonly shutdownLabel: string;
  readonly shutdownAllLabel: string;
  readonly shutdownAllConfirmationText: string;
  readonly shutdownItemIcon: LabIcon = reclaimIcon;

  constructor(
    private readonly gpuReclaim: IGpuReclaim,
    private readonly commands: CommandRegistry
  ) {
    const { trans } = gpuReclaim.language;
    this.name = trans.__('GPU memory');
    this.shutdownLabel = trans.__('Reclaim now');
    this.shutdownAllLabel = trans.__('Reclaim All');
    this.shutdownAllConfirmationText = trans.__(
      'Reclaim the GPU memory of all idle notebooks? Nothing is lost: each gets it back on its next cell.'
    );
  }

  get runningChanged(): ISignal<Model, unknown> {
    return this.gpuReclaim.model.changed;
  }

  running(): IRunningSessions.IRunningItem[] {
    return this.rows().map(row => ({
      label: () => row.name,
      labelTitle: () => row.why,
      detail: () => `${row.bytes} · ${row.badge}`,
      icon: () => notebookIcon,
      open: () => this.execute(CommandIDs.open, row),
      ...(row.canReclaim ? { shutdown: () => this.execute(CommandIDs.reclaim, row) } : {})
    }));
  }

  shutdownAll(): void {
    for (const row of this.rows()) {
      if (row.canReclaim) {
        this.execute(CommandIDs.reclaim, row);
      }
    }
  }

  refreshRunning(): void {
    void this.gpuReclaim.model.look();
  }

  private rows(): Row[] {
    const { status } = this.gpuReclaim.model.state;
    return status ? rowsOf(status, new Date(), this.gpuReclaim.language).filter(row => row.state !== 'empty') : [];
  }

  private execute(command: string, row: Row): void {
    void this.commands.execute(command, { kernelId: row.kernelId });
  }
}
