/** The log in the main area: asks for page after page, and for an episode when one of its rows is opened. */

import { ReactWidget } from '@jupyterlab/ui-components';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { gpuIcon } from './components/icons';
import { LogFilterBar, type Choice } from './components/LogFilters';
import { LogTable } from './components/LogTable';
import { EVERYTHING, filtersOf, logRowOf, stepOf, stepsOf, type LogQuestion, type Step } from './select/log';
import type { IGpuReclaim } from './tokens';
import type { Transition } from './types';

const PAGE = 100;
const EPISODE_PAGE = 500;

export class LogView extends ReactWidget {
  /** The question has changed: whoever remembers the layout writes it down. */
  readonly questionChanged = new Signal<this, LogQuestion>(this);
  private asked: LogQuestion = EVERYTHING;
  private transitions: Transition[] = [];
  private next: string | null = null;
  private loading = false;
  private turn = 0;
  private problem = '';
  private open: { id: string; steps: Step[] | null } | null = null;

  constructor(private readonly gpuReclaim: IGpuReclaim) {
    super();
    const { trans } = gpuReclaim.language;
    this.addClass('jp-GpuReclaimLog');
    this.title.icon = gpuIcon;
    this.title.label = trans.__('GPU Reclaim Log');
    gpuReclaim.preferences.changed.connect(this.update, this);
    void this.load();
  }

  get question(): LogQuestion {
    return this.asked;
  }

  /** Ask anew. */
  ask(question: LogQuestion): void {
    this.asked = question;
    this.transitions = [];
    this.next = null;
    this.open = null;
    this.loading = false;
    this.turn += 1;
    this.questionChanged.emit(question);
    void this.load();
  }

  protected override render(): JSX.Element {
    const { language, model } = this.gpuReclaim;
    const { trans } = language;
    const filters = filtersOf(this.asked, trans);
    return (
      <>
        <LogFilterBar
          question={this.asked}
          notebooks={this.notebooks()}
          gpus={this.gpus()}
          files={[
            { label: trans.__('CSV'), address: model.logFile(filters, 'csv') },
            { label: trans.__('JSON Lines'), address: model.logFile(filters, 'jsonl') }
          ]}
          onChange={change => this.ask({ ...this.asked, ...change })}
          trans={trans}
        />
        {this.problem && <p role="alert">{trans.__('The log cannot be read now: %1', this.problem)}</p>}
        {!this.problem && !this.loading && this.transitions.length === 0 && (
          <p>{trans.__('Nothing has been reclaimed yet, or nothing that these filters let through.')}</p>
        )}
        <LogTable
          rows={this.transitions.map(transition => logRowOf(transition, language))}
          open={this.open}
          more={this.next !== null}
          onOpen={id => void this.toggle(id)}
          onEnd={() => void this.load()}
          trans={trans}
        />
      </>
    );
  }

  private async load(): Promise<void> {
    if (this.loading) {
      return;
    }
    this.loading = true;
    const turn = this.turn;
    try {
      const filters = filtersOf(this.asked, this.gpuReclaim.language.trans);
      const page = await this.gpuReclaim.model.log(filters, this.next, PAGE);
      if (turn === this.turn) {
        this.transitions = [...this.transitions, ...page.transitions];
        this.next = page.next;
        this.problem = '';
      }
    } catch (error) {
      if (turn === this.turn) {
        this.problem = error instanceof Error ? error.message : String(error);
      }
    } finally {
      if (turn === this.turn) {
        this.loading = false;
        this.update();
      }
    }
  }

  private async toggle(id: string): Promise<void> {
    const transition = this.transitions.find(transition => transition.id === id);
    if (!transition || this.open?.id === id) {
      this.open = null;
      this.update();
      return;
    }
    this.open = { id, steps: null };
    this.update();
    const steps = await this.steps(transition);
    if (this.open?.id === id) {
      this.open = { id, steps };
      this.update();
    }
  }

  /** The steps of a row's episode; of a row without one, or where the server does not answer, only itself. */
  private async steps(transition: Transition): Promise<Step[]> {
    const { model, language } = this.gpuReclaim;
    const alone = [stepOf(transition, language)];
    if (transition.episode_id === null) {
      return alone;
    }
    try {
      const found: Transition[] = [];
      let after: string | null = null;
      do {
        const page = await model.log({ kernel_id: transition.kernel_id }, after, EPISODE_PAGE);
        found.push(...page.transitions);
        after = page.next;
      } while (after !== null && !found.some(row => row.episode_id === transition.episode_id && row.event === 'reclaim_started'));
      return stepsOf(found, transition.episode_id, language);
    } catch {
      return alone;
    }
  }

  private notebooks(): Choice[] {
    const { status } = this.gpuReclaim.model.state;
    const labels = [...this.transitions, ...(status?.kernels ?? [])].map(({ label }) => label);
    return [...new Set(labels)]
      .filter(Boolean)
      .sort((a, b) => a.localeCompare(b))
      .map(label => ({ id: label, label }));
  }

  private gpus(): Choice[] {
    return (this.gpuReclaim.model.state.status?.gpus ?? []).map(({ uuid, name }) => ({ id: uuid, label: name }));
  }
}
