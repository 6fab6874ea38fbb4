/** Opens the log: from the sidebar, the palette, a saved layout, or a link such as `/lab?gpu-reclaim-log=&outcome=failed`. */

import type { ILayoutRestorer, IRouter, JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget, WidgetTracker, type ICommandPalette } from '@jupyterlab/apputils';

import { LogView } from './logview';
import { questionIn } from './select/log';
import { CommandIDs, LOG, type IGpuReclaim } from './tokens';

const LINK = /[?&]gpu-reclaim-log(=|&|$)/;

export function addLog(
  app: JupyterFrontEnd,
  gpuReclaim: IGpuReclaim,
  restorer: ILayoutRestorer | null,
  palette: ICommandPalette | null,
  router: IRouter | null
): void {
  const { commands, shell } = app;
  const { trans } = gpuReclaim.language;
  const tracker = new WidgetTracker<MainAreaWidget<LogView>>({ namespace: LOG });

  commands.addCommand(CommandIDs.showLog, {
    label: trans.__('Show the GPU Reclaim Log'),
    execute: args => {
      const widget = tracker.currentWidget ?? newLog(gpuReclaim, tracker);
      if (Object.keys(args).length > 0) {
        widget.content.ask(questionIn(args));
      }
      if (!widget.isAttached) {
        shell.add(widget, 'main');
      }
      shell.activateById(widget.id);
    }
  });
  palette?.addItem({ command: CommandIDs.showLog, category: trans.__('GPU Reclaim') });
  void restorer?.restore(tracker, {
    command: CommandIDs.showLog,
    name: () => LOG,
    args: widget => ({ ...widget.content.question })
  });

  commands.addCommand(CommandIDs.followLink, {
    execute: args => {
      const query = new URLSearchParams(typeof args.search === 'string' ? args.search : '');
      return commands.execute(CommandIDs.showLog, { ...questionIn(Object.fromEntries(query)) });
    }
  });
  router?.register({ command: CommandIDs.followLink, pattern: LINK });
}

function newLog(gpuReclaim: IGpuReclaim, tracker: WidgetTracker<MainAreaWidget<LogView>>): MainAreaWidget<LogView> {
  const widget = new MainAreaWidget({ content: new LogView(gpuReclaim) });
  widget.id = LOG;
  void tracker.add(widget);
  widget.content.questionChanged.connect(() => void tracker.save(widget));
  return widget;
}
