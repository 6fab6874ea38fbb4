/** What a person may do to a kernel, as commands: for the palette, the sidebar's buttons and anybody's shortcuts. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification, type ICommandPalette } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import type { Model } from './model';
import { keepChoices } from './select/keep';
import { rowOf, type Row } from './select/rows';
import { timeInWords } from './select/words';
import { CommandIDs, type IGpuReclaim } from './tokens';

const TOLD_MS = 6000;

export function addCommands(
  app: JupyterFrontEnd,
  gpuReclaim: IGpuReclaim,
  tracker: INotebookTracker | null,
  palette: ICommandPalette | null
): void {
  const { model } = gpuReclaim;
  const { trans } = gpuReclaim.language;
  const { commands } = app;

  const rowFor = (args: ReadonlyPartialJSONObject): Row | null => {
    const id = args.kernelId ?? tracker?.currentWidget?.sessionContext.session?.kernel?.id;
    const { status } = model.state;
    const kernel = status?.kernels.find(kernel => kernel.kernel_id === id);
    return kernel && status ? rowOf(kernel, status.policy, model.now(), gpuReclaim.language) : null;
  };
  const add = (
    id: string,
    label: string,
    allowed: (row: Row) => boolean,
    act: (row: Row, args: ReadonlyPartialJSONObject) => Promise<void>
  ): void => {
    commands.addCommand(id, {
      label: args => (typeof args.label === 'string' ? args.label : label),
      isEnabled: args => allowed(rowFor(args) ?? NOTHING),
      execute: async args => {
        const row = rowFor(args);
        if (row) {
          await act(row, args).catch((error: unknown) => sayWhyNot(row, error));
        }
      }
    });
    palette?.addItem({ command: id, category: trans.__('GPU Reclaim') });
  };

  add(
    CommandIDs.reclaim,
    trans.__('Reclaim the GPU memory of this notebook now'),
    row => row.canReclaim,
    row => reclaim(model, row, trans)
  );
  add(
    CommandIDs.restore,
    trans.__('Restore the GPU memory of this notebook now'),
    row => row.canRestore,
    row => restore(model, row)
  );
  add(
    CommandIDs.keep,
    trans.__('Keep this notebook on the GPU for a while'),
    row => row.canKeep,
    async (row, args) => {
      const { status } = model.state;
      const first = status ? keepChoices(status.policy, model.now(), trans)[0] : undefined;
      const seconds = typeof args.seconds === 'number' ? args.seconds : first?.seconds;
      if (seconds !== undefined) {
        await keep(model, row, seconds, trans);
      }
    }
  );
  add(
    CommandIDs.unkeep,
    trans.__('Keep this notebook on the GPU no longer'),
    row => row.keptUntil !== null,
    row => model.unkeep(row.kernelId)
  );
  commands.addCommand(CommandIDs.refresh, { label: trans.__('Refresh the GPU Status'), execute: () => model.look() });
  palette?.addItem({ command: CommandIDs.refresh, category: trans.__('GPU Reclaim') });
  add(
    CommandIDs.open,
    trans.__('Open the notebook of a kernel'),
    row => row.path !== null,
    async row => {
      await commands.execute('docmanager:open', { path: row.path });
    }
  );
}

const NOTHING: Row = {
  kernelId: '',
  name: '',
  path: null,
  bytes: '',
  state: 'empty',
  badge: '',
  why: '',
  progress: null,
  keptUntil: null,
  canReclaim: false,
  canRestore: false,
  canKeep: false
};

async function reclaim(model: Model, row: Row, trans: TranslationBundle): Promise<void> {
  const said = await model.reclaim(row.kernelId);
  Notification.success(`${row.name}: ${said}`, {
    autoClose: TOLD_MS,
    actions: [
      {
        label: trans.__('Undo'),
        callback: () => void restore(model, row).catch((error: unknown) => sayWhyNot(row, error))
      }
    ]
  });
}

async function restore(model: Model, row: Row): Promise<void> {
  const said = await model.restore(row.kernelId);
  Notification.success(`${row.name}: ${said}`, { autoClose: TOLD_MS });
}

async function keep(model: Model, row: Row, seconds: number, trans: TranslationBundle): Promise<void> {
  const until = await model.keep(row.kernelId, seconds);
  Notification.success(trans.__('%1 is kept on the GPU until %2.', row.name, timeInWords(new Date(until), model.now())), {
    autoClose: TOLD_MS,
    actions: [
      {
        label: trans.__('Undo'),
        callback: () => void model.unkeep(row.kernelId).catch((error: unknown) => sayWhyNot(row, error))
      }
    ]
  });
}

function sayWhyNot(row: Row, error: unknown): void {
  Notification.warning(`${row.name}: ${error instanceof Error ? error.message : String(error)}`, { autoClose: TOLD_MS });
}
