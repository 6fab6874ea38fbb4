/** A section of the Running panel: the notebooks that hold GPU memory or have given it back. */

import type { IRunningSessions } from '@jupyterlab/running';
import { notebookIcon, type LabIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Signal, type ISignal } from '@lumino/signaling';

import { reclaimIcon } from './components/icons';
import { rowsOf, type Row } from './select/rows';
import { CommandIDs, type IGpuReclaim } from './tokens';

/** What the panel calls "shutting down" is reclaiming here: no kernel is ended. */
export class RunningOnGpu implements IRunningSessions.IManager {
  readonly name: string;
  readonly shutdownLabel: string;
  readonly shutdownAllLabel: string;
  readonly shutdownAllConfirmationText: string;
  readonly shutdownItemIcon: LabIcon = reclaimIcon;

  private readonly listChanged = new Signal<this, void>(this);
  private shown = '';

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
    gpuReclaim.model.changed.connect(this.onChange, this);
    gpuReclaim.preferences.changed.connect(this.onChange, this);
  }

  /** Emitted when what the section shows has changed: the panel draws all its sections anew. */
  get runningChanged(): ISignal<this, void> {
    return this.listChanged;
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

  private onChange(): void {
    const shown = JSON.stringify(
      this.rows().map(({ kernelId, name, bytes, badge, canReclaim }) => [kernelId, name, bytes, badge, canReclaim])
    );
    if (shown !== this.shown) {
      this.shown = shown;
      this.listChanged.emit();
    }
  }

  /** By name: the panel knows its items by their place only, and a press must not hit another notebook. */
  private rows(): Row[] {
    const { status } = this.gpuReclaim.model.state;
    const rows = status ? rowsOf(status, this.gpuReclaim.model.now(), this.gpuReclaim.language) : [];
    return rows.filter(row => row.state !== 'empty').sort((a, b) => a.name.localeCompare(b.name));
  }

  private execute(command: string, row: Row): void {
    void this.commands.execute(command, { kernelId: row.kernelId });
  }
}
