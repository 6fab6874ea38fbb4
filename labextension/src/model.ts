/** The last status and one signal; asks the server when its events say that something happened, and now and then. */

import type { Event } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';

import { ApiProblem, isOurEvent, type Api } from './api';
import { LONGEST_MS, msToNextLook, toldBy } from './rhythm';
import type { History, Instant, LogFilters, LogPage, Status, Totals } from './types';

const HISTORY_HOURS = 6;

/** What is known. `problem` says why the last look failed; `status` then is that of the last one that did not. */
export interface State {
  readonly status: Status | null;
  readonly problem: ApiProblem | null;
  readonly history: History | null;
  readonly totals: Totals | null;
}

export interface Change {
  readonly before: State;
  readonly now: State;
}

export interface ModelOptions {
  api: Api;
  events: Event.Stream;
  refreshSeconds: number;
}

export class Model implements IDisposable {
  readonly changed = new Signal<this, Change>(this);
  isDisposed = false;
  private known: State = { status: null, problem: null, history: null, totals: null };
  private looking: Promise<void> | null = null;
  private again = false;
  private quiet = 0;
  private watched = false;
  private readonly absent = new Set<string>(); // calls that this server does not have
  private refreshMs: number;
  private readonly api: Api;
  private readonly events: Event.Stream;
  private readonly poll: Poll;

  constructor(options: ModelOptions) {
    this.api = options.api;
    this.events = options.events;
    this.refreshMs = options.refreshSeconds * 1000;
    this.events.connect(this.onEvent, this);
    document.addEventListener('visibilitychange', this);
    window.addEventListener('online', this);
    // What notebooks and others hold changes without an event, and an event may be lost on its way.
    this.poll = new Poll({
      name: 'gpu-reclaim:status',
      factory: async () => {
        await this.look();
        if (this.known.problem) {
          throw this.known.problem;
        }
      },
      frequency: { interval: this.refreshMs, backoff: true, max: LONGEST_MS },
      standby: 'when-hidden'
    });
  }

  get state(): State {
    return this.known;
  }

  /** What time it is by the server's clock, which every deadline goes by. */
  now(): Date {
    return new Date(Date.now() + this.api.aheadMs);
  }

  set refreshSeconds(seconds: number) {
    this.refreshMs = seconds * 1000;
    this.quiet = 0;
    this.pace(true);
  }

  /** Whether the figures that no event tells of are on screen. Once they are, they are asked for. */
  set inSight(inSight: boolean) {
    this.watched = inSight;
    if (inSight) {
      this.quiet = 0;
      void this.look();
    }
  }

  /** Something is being done that no event tells of, such as running a cell: do not look seldom for a while. */
  stir(): void {
    this.quiet = 0;
    this.pace(false);
  }

  /** The DOM's, as `addEventListener` takes it: the page or the network is back. */
  handleEvent(): void {
    if (document.visibilityState === 'visible') {
      void this.look();
    }
  }

  /** Ask for the status. Asked while an answer is under way, it asks once more after it; never rejects. */
  look(): Promise<void> {
    if (this.looking) {
      this.again = true;
      return this.looking;
    }
    this.looking = this.lookUntilCurrent();
    return this.looking;
  }

  /** Ask for history and totals. What this server does not have is left out; never rejects. */
  async lookBack(now: Date): Promise<void> {
    const since = new Date(now.getTime() - HISTORY_HOURS * 3_600_000);
    const [history, totals] = await Promise.all([
      this.ifThere('history', () => this.api.history(since.toISOString(), now.toISOString())),
      this.ifThere('totals', () => this.api.totals())
    ]);
    this.set({ ...this.known, history, totals });
  }

  /** One page of the log, newest first; `after` is `next` of the page before. Rejects with an `ApiProblem`. */
  log(filters: LogFilters, after: string | null, limit: number): Promise<LogPage> {
    return this.api.log(filters, after, limit);
  }

  /** Where the log is as a file, for a link. */
  logFile(filters: LogFilters, format: 'csv' | 'jsonl'): string {
    return this.api.logFile(filters, format);
  }

  /** Rejects with an `ApiProblem` that says why not; so do the other acts. */
  reclaim(kernelId: string): Promise<string> {
    return this.act(this.api.reclaim(kernelId));
  }

  restore(kernelId: string): Promise<string> {
    return this.act(this.api.restore(kernelId));
  }

  keep(kernelId: string, seconds: number): Promise<Instant> {
    return this.act(this.api.pin(kernelId, seconds));
  }

  unkeep(kernelId: string): Promise<void> {
    return this.act(this.api.unpin(kernelId));
  }

  /** Somebody looks at this kernel's notebook: bring its data back if that costs nobody anything. Never rejects. */
  async prefetch(kernelId: string): Promise<void> {
    // Refused or not, the next cell brings the data back.
    await this.ifThere('prefetch', () => this.act(this.api.prefetch(kernelId)));
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.isDisposed = true;
    this.events.disconnect(this.onEvent, this);
    document.removeEventListener('visibilitychange', this);
    window.removeEventListener('online', this);
    this.poll.dispose();
    Signal.clearData(this);
  }

  private onEvent(_: Event.IManager, event: Event.Emission): void {
    if (isOurEvent(event.schema_id)) {
      this.quiet = 0;
      void this.look();
    }
  }

  private async act<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } finally {
      this.quiet = 0;
      void this.look();
    }
  }

  /** The answer, or null; a server that does not know the call is not asked again. */
  private async ifThere<T>(name: string, call: () => Promise<T>): Promise<T | null> {
    if (this.absent.has(name)) {
      return null;
    }
    try {
      return await call();
    } catch (error) {
      if (error instanceof ApiProblem && error.kind === 'absent') {
        this.absent.add(name);
      }
      return null; // the status tells what is wrong with the server
    }
  }

  private async lookUntilCurrent(): Promise<void> {
    do {
      this.again = false;
      try {
        this.take(await this.api.status());
      } catch (error) {
        this.quiet = 0;
        this.set({ ...this.known, problem: error instanceof ApiProblem ? error : defect(error) });
      }
    } while (this.again && !this.isDisposed);
    this.looking = null; // at once: whoever asks from now on must not be told to wait for this look
    this.pace(this.known.problem === null);
  }

  private take(status: Status): void {
    const { status: last, problem } = this.known;
    if (problem === null && last !== null && toldBy(status, this.watched) === toldBy(last, this.watched)) {
      this.quiet += 1;
      this.known = { ...this.known, status }; // with its newer sentences, for whoever draws next
    } else {
      this.quiet = 0;
      this.set({ ...this.known, status, problem: null });
    }
  }

  /** Set the time of the next look: counted from now, or else only brought forward. Failures have the poll's own pace. */
  private pace(fromNow: boolean): void {
    const { status } = this.known;
    const interval = msToNextLook({ status, now: this.now(), quiet: this.quiet, refreshMs: this.refreshMs, inSight: this.watched });
    if (!this.isDisposed && (fromNow || interval < this.poll.frequency.interval)) {
      this.poll.frequency = { backoff: true, interval, max: Math.max(LONGEST_MS, interval) };
      void this.poll.schedule({ interval, phase: 'refreshed' });
    }
  }

  private set(now: State): void {
    if (!this.isDisposed) {
      const before = this.known;
      this.known = now;
      this.changed.emit({ before, now });
    }
  }
}

function defect(error: unknown): ApiProblem {
  return new ApiProblem('refused', error instanceof Error ? error.message : String(error));
}
