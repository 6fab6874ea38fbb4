/** JupyterLab's and Notebook 7's entry points: makes the parts and puts them together. Nothing is decided here. */

import { ILabShell, ILayoutRestorer, IRouter, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IThemeManager, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { Api } from './api';
import { EarlyRestore, Warnings } from './attention';
import { addCommands } from './commands';
import { NotebookIndicator, StatusBarItem } from './indicators';
import { addLog } from './log';
import { Model } from './model';
import { Preferences } from './preferences';
import { RunningOnGpu } from './running';
import { Sidebar } from './sidebar';
import { CommandIDs, EXTENSION, IGpuReclaim, INDICATOR, PLUGIN, SIDEBAR, TRANSLATION } from './tokens';

const model: JupyterFrontEndPlugin<IGpuReclaim> = {
  id: PLUGIN,
  description: 'Knows what notebooks hold on GPUs, and the commands that reclaim, restore and keep.',
  autoStart: true,
  provides: IGpuReclaim,
  optional: [ISettingRegistry, ITranslator, INotebookTracker, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    settings: ISettingRegistry | null,
    translator: ITranslator | null,
    tracker: INotebookTracker | null,
    palette: ICommandPalette | null
  ): IGpuReclaim => {
    const trans = (translator ?? nullTranslator).load(TRANSLATION);
    const preferences = new Preferences();
    const { serviceManager } = app;
    const model = new Model({
      api: new Api(serviceManager.serverSettings),
      events: serviceManager.events.stream,
      refreshSeconds: preferences.refreshSeconds
    });
    preferences.changed.connect(() => {
      model.refreshSeconds = preferences.refreshSeconds;
    });
    // Without its settings it works as well, by the defaults; the registry has told why they are not there.
    settings?.load(PLUGIN).then(
      loaded => preferences.follow(loaded),
      () => undefined
    );
    const gpuReclaim: IGpuReclaim = {
      model,
      preferences,
      get language() {
        return { trans, units: preferences.units };
      }
    };
    addCommands(app, gpuReclaim, tracker, palette);
    new Warnings(gpuReclaim, app.commands, app.started);
    if (tracker) {
      new EarlyRestore(gpuReclaim, tracker);
    }
    return gpuReclaim;
  }
};

const sidebar: JupyterFrontEndPlugin<void> = {
  id: `${EXTENSION}:sidebar`,
  description: 'The sidebar: GPUs, who holds them, what was won back.',
  autoStart: true,
  requires: [IGpuReclaim],
  optional: [ILabShell, ILayoutRestorer, ICommandPalette, IThemeManager],
  activate: (
    app: JupyterFrontEnd,
    gpuReclaim: IGpuReclaim,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    themes: IThemeManager | null
  ): void => {
    const { trans } = gpuReclaim.language;
    const widget = new Sidebar(gpuReclaim, app.commands, themes);
    app.shell.add(widget, 'right', { rank: 900, type: 'GPU reclaim' });
    restorer?.add(widget, SIDEBAR);
    app.commands.addCommand(CommandIDs.showSidebar, {
      label: trans.__('Show the GPU Reclaim Sidebar'),
      execute: () => {
        labShell?.expandRight();
        app.shell.activateById(SIDEBAR);
      }
    });
    palette?.addItem({ command: CommandIDs.showSidebar, category: trans.__('GPU Reclaim') });
  }
};

const indicators: JupyterFrontEndPlugin<void> = {
  id: `${EXTENSION}:indicators`,
  description: "The GPU's state in each notebook's toolbar, and in the status bar.",
  autoStart: true,
  requires: [IGpuReclaim],
  optional: [IToolbarWidgetRegistry, IStatusBar],
  activate: (
    app: JupyterFrontEnd,
    gpuReclaim: IGpuReclaim,
    toolbars: IToolbarWidgetRegistry | null,
    statusBar: IStatusBar | null
  ): void => {
    const openSidebar = (): void => void app.commands.execute(CommandIDs.showSidebar);
    toolbars?.addFactory<NotebookPanel>('Notebook', INDICATOR, panel => new NotebookIndicator(panel, gpuReclaim, openSidebar));
    if (statusBar) {
      const item = new StatusBarItem(gpuReclaim, openSidebar);
      statusBar.registerStatusItem(`${EXTENSION}:status`, {
        item,
        align: 'left',
        rank: 100,
        isActive: () => item.isActive,
        activeStateChanged: item.activeChanged
      });
    }
  }
};

const running: JupyterFrontEndPlugin<void> = {
  id: `${EXTENSION}:running`,
  description: 'A section of the Running panel.',
  autoStart: true,
  requires: [IGpuReclaim, IRunningSessionManagers],
  activate: (app: JupyterFrontEnd, gpuReclaim: IGpuReclaim, managers: IRunningSessionManagers): void => {
    managers.add(new RunningOnGpu(gpuReclaim, app.commands));
  }
};

const log: JupyterFrontEndPlugin<void> = {
  id: `${EXTENSION}:log`,
  description: 'The log of reclaims and restores, in the main area.',
  autoStart: true,
  requires: [IGpuReclaim],
  optional: [ILayoutRestorer, ICommandPalette, IRouter],
  activate: addLog
};

export default [model, sidebar, indicators, running, log];
