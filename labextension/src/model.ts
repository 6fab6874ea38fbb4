/** The last status and one signal; asks the server when its events say that something happened, and now and then. */

import type { Event } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';

import { ApiProblem, isOurEvent, type Api } from './api';
import type { History, Instant, LogFilters, LogPage, Status, Totals } from './types';

const MOVING_MS = 1000;
const LONGEST_MS = 60_000;
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
    // Idle times, progress and the memory of others change without an event.
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

  set refreshSeconds(seconds: number) {
    this.refreshMs = seconds * 1000;
    this.pace();
  }

  /** Ask for the status. Asked while an answer is under way, it asks once more after it; never rejects. */
  look(): Promise<void> {
    if (this.looking) {
      this.again = true;
      return this.looking;
    }
    this.looking = this.lookUntilCurrent().finally(() => {
      this.looking = null;
    });
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
    this.poll.dispose();
    Signal.clearData(this);
  }

  private onEvent(_: Event.IManager, event: Event.Emission): void {
    if (isOurEvent(event.schema_id)) {
      void this.look();
    }
  }

  private async act<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } finally {
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
        const status = await this.api.status();
        if (this.known.problem || !tellSame(status, this.known.status)) {
          this.set({ ...this.known, status, problem: null });
        }
      } catch (error) {
        this.set({ ...this.known, problem: error instanceof ApiProblem ? error : defect(error) });
      }
    } while (this.again && !this.isDisposed);
    this.pace();
  }

  /** Quick while bytes move or somebody waits, for the sake of progress shown. */
  private pace(): void {
    const moving = this.known.status?.kernels.some(
      kernel => kernel.phase === 'reclaiming' || kernel.phase === 'restoring' || kernel.waiting > 0
    );
    const interval = moving ? Math.min(MOVING_MS, this.refreshMs) : this.refreshMs;
    if (!this.isDisposed && this.poll.frequency.interval !== interval) {
      this.poll.frequency = { ...this.poll.frequency, interval, max: Math.max(LONGEST_MS, interval) };
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

/** Whether two statuses tell the same, but for when they were taken: then nothing is to be drawn anew. */
function tellSame(one: Status, other: Status | null): boolean {
  return other !== null && JSON.stringify({ ...one, taken_at: null }) === JSON.stringify({ ...other, taken_at: null });
}

function defect(error: unknown): ApiProblem {
  return new ApiProblem('refused', error instanceof Error ? error.message : String(error));
}
