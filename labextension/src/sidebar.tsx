/** The sidebar as a widget: listens to the model, asks for history while it is seen, and passes presses on. */

import type { IThemeManager } from '@jupyterlab/apputils';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { Message } from '@lumino/messaging';
import { Poll } from '@lumino/polling';
import { Menu } from '@lumino/widgets';
import * as React from 'react';

import { Chart } from './components/Chart';
import { gpuIcon } from './components/icons';
import type { RowActions } from './components/KernelRow';
import { Panel } from './components/Panel';
import type { Change, Model } from './model';
import { cardsOf } from './select/cards';
import { announcements } from './select/changes';
import { keepChoices } from './select/keep';
import { noticesOf } from './select/notices';
import { msToNextWords, rowsOf, type Row } from './select/rows';
import { seriesOf, totalsOf, type Series } from './select/totals';
import { CommandIDs, SIDEBAR, type IGpuReclaim } from './tokens';
import type { History } from './types';

const HISTORY_MS = 120_000; // a chart of six hours has less than two pixels for it
const ARRIVALS = ['pointerenter', 'focusin'] as const;
const RELEASES = ['pointerup', 'pointercancel'] as const;
const IN_HAND = '.jp-GpuReclaim-rows:is(:hover, :has(:focus-visible))';

/** Nothing moves away from under a hand: while a button is held down nothing is drawn, nor are rows sorted about one. */
export class Sidebar extends ReactWidget {
  private spoken = '';
  private pressed = false;
  private order: string[] = [];
  private clock = 0;
  private charted: { history: History | null; series: Series | null } = { history: null, series: null };
  private readonly history: Poll;
  private readonly menu: Menu;

  constructor(
    private readonly gpuReclaim: IGpuReclaim,
    private readonly commands: CommandRegistry,
    private readonly themes: IThemeManager | null
  ) {
    super();
    const { trans } = gpuReclaim.language;
    this.id = SIDEBAR;
    this.addClass('jp-GpuReclaim');
    this.title.icon = gpuIcon;
    this.title.caption = trans.__('GPU reclaim');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('GPU reclaim'));
    this.menu = new Menu({ commands });
    gpuReclaim.model.changed.connect(this.onChange, this);
    gpuReclaim.preferences.changed.connect(this.update, this);
    themes?.themeChanged.connect(this.update, this);
    this.history = new Poll({
      name: 'gpu-reclaim:history',
      factory: () => gpuReclaim.model.lookBack(gpuReclaim.model.now()),
      frequency: { interval: HISTORY_MS, backoff: true },
      standby: () => (this.isVisible ? 'when-hidden' : true),
      auto: false
    });
  }

  override dispose(): void {
    if (!this.isDisposed) {
      window.clearTimeout(this.clock);
      this.history.dispose();
      this.menu.dispose();
    }
    super.dispose(); // which ends the signals' connections, too
  }

  /** The DOM's, as `addEventListener` takes it. */
  handleEvent(event: PointerEvent | FocusEvent): void {
    if (event.type === 'pointerenter' || event.type === 'focusin') {
      if (!this.node.contains(event.relatedTarget as Node | null)) {
        void this.gpuReclaim.model.look(); // whoever comes sees what is, however seldom we look
      }
    } else if (event.type === 'pointerdown') {
      this.pressed = (event as PointerEvent).button === 0;
    } else if (this.pressed) {
      this.pressed = false;
      window.setTimeout(() => this.update()); // after the click, which comes right behind the release
    }
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.node.addEventListener('pointerdown', this);
    ARRIVALS.forEach(arrival => this.node.addEventListener(arrival, this));
    RELEASES.forEach(release => window.addEventListener(release, this)); // a press may end anywhere
    this.gpuReclaim.model.inSight = this.isVisible;
  }

  protected override onBeforeDetach(message: Message): void {
    this.node.removeEventListener('pointerdown', this);
    ARRIVALS.forEach(arrival => this.node.removeEventListener(arrival, this));
    RELEASES.forEach(release => window.removeEventListener(release, this));
    this.pressed = false; // its end is not heard of any more
    this.gpuReclaim.model.inSight = false;
    super.onBeforeDetach(message);
  }

  protected override onUpdateRequest(message: Message): void {
    if (!this.pressed) {
      super.onUpdateRequest(message);
      this.tellTime();
    }
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    void this.history.refresh();
    this.gpuReclaim.model.inSight = true;
    this.update();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.gpuReclaim.model.inSight = false;
  }

  protected override render(): JSX.Element {
    const { language, model, preferences } = this.gpuReclaim;
    const { status, history } = model.state;
    const now = model.now();
    const held = this.node.querySelector(IN_HAND) ? this.order : [];
    const rows = status ? rowsOf(status, now, language, held) : [];
    this.order = rows.map(row => row.kernelId);
    if (history !== this.charted.history) {
      this.charted = { history, series: seriesOf(history) }; // a chart is drawn anew for each new series
    }
    const { series } = this.charted;
    const chart = series && (
      <Chart key={`${this.themes?.theme} ${preferences.units}`} series={series} units={preferences.units} trans={language.trans} />
    );
    return (
      <Panel
        notices={noticesOf(model.state, language.trans)}
        totals={totalsOf(model.state, language)}
        cards={status ? cardsOf(status, language) : []}
        rows={rows}
        known={status !== null}
        chart={chart}
        spoken={this.spoken}
        actions={this.actions}
        showLog={() => void this.commands.execute(CommandIDs.showLog)}
        trans={language.trans}
      />
    );
  }

  private readonly actions: RowActions = {
    open: row => this.execute(CommandIDs.open, row),
    reclaim: row => this.execute(CommandIDs.reclaim, row),
    restore: row => this.execute(CommandIDs.restore, row),
    unkeep: row => this.execute(CommandIDs.unkeep, row),
    keep: (row, button) => {
      const { model, language } = this.gpuReclaim;
      const policy = model.state.status?.policy;
      this.menu.clearItems();
      for (const { label, seconds } of policy ? keepChoices(policy, model.now(), language.trans) : []) {
        this.menu.addItem({ command: CommandIDs.keep, args: { kernelId: row.kernelId, seconds, label } });
      }
      const { left, bottom } = button.getBoundingClientRect();
      this.menu.open(left, bottom);
    }
  };

  private execute(command: string, row: Row): void {
    void this.commands.execute(command, { kernelId: row.kernelId });
  }

  /** Draw again when a sentence has changed with the time alone. */
  private tellTime(): void {
    const { model } = this.gpuReclaim;
    const pause = model.state.status && msToNextWords(model.state.status, model.now());
    window.clearTimeout(this.clock);
    if (pause !== null && this.isVisible) {
      this.clock = window.setTimeout(() => this.update(), pause);
    }
  }

  private onChange(_: Model, { before, now }: Change): void {
    const news = announcements(before, now, this.gpuReclaim.language);
    if (news.length > 0) {
      this.spoken = news.join('. ');
    }
    if (this.isVisible) {
      this.update();
    }
  }
}
