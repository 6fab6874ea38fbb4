/** The server's REST interface and events. Nothing else knows an address. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import type { History, Instant, LogFilters, LogPage, Status, Totals } from './types';

const ROOT = 'gpu-reclaim/api';
const CLOCK_MS = 2000;
const EVENTS = 'https://events.jupyter.org/jupyter_gpu_reclaim/';

/**
 * Why a call did not do what it was to: "unreachable" no answer came, "absent" the server does not know this call (the
 * extension is not enabled there, or is older), "mismatched" it answers what this page does not understand, "forbidden"
 * the person may not, "refused" the server says why.
 */
export type ProblemKind = 'unreachable' | 'absent' | 'mismatched' | 'forbidden' | 'refused';

export class ApiProblem extends Error {
  constructor(
    readonly kind: ProblemKind,
    message: string,
    readonly reason = ''
  ) {
    super(message);
  }
}

/** One method a call. Each rejects with an `ApiProblem`. No call that only looks counts as activity of the server. */
export class Api {
  /** By how much the server's clock is ahead of this page's, in milliseconds; differences below two seconds are none. */
  aheadMs = 0;

  constructor(private readonly settings: ServerConnection.ISettings) {}

  async status(): Promise<Status> {
    const status = await this.read<Partial<Status> | null>('status');
    if (!status || !Array.isArray(status.kernels) || !status.policy || !Array.isArray(status.alarms)) {
      throw new ApiProblem('mismatched', 'The server answers in a form that this page does not know.');
    }
    return status as Status;
  }

  history(since: Instant, until: Instant): Promise<History> {
    return this.read<History>('history', { since, until });
  }

  totals(): Promise<Totals> {
    return this.read<Totals>('totals');
  }

  log(filters: LogFilters, after: string | null, limit: number): Promise<LogPage> {
    return this.read<LogPage>('log', { ...filters, limit: String(limit), ...(after === null ? {} : { after }) });
  }

  /** Where the log is as a file, for a link: all rows that the filters let pass. */
  logFile(filters: LogFilters, format: 'csv' | 'jsonl'): string {
    return this.address('log/export', { ...filters, format, no_track_activity: '1' });
  }

  /** Ask for a reclaim; the server's sentence on what comes of it. */
  async reclaim(kernelId: string): Promise<string> {
    return (await this.write<{ explanation: string }>('POST', kernel(kernelId, 'reclaim'), {})).explanation;
  }

  /** Ask for a restore, now or as soon as there is room; the server's sentence on what comes of it. */
  async restore(kernelId: string): Promise<string> {
    return (await this.write<{ explanation: string }>('POST', kernel(kernelId, 'restore'), {})).explanation;
  }

  /** Ask for a restore that must cost nobody anything. */
  async prefetch(kernelId: string): Promise<void> {
    await this.write('POST', kernel(kernelId, 'prefetch'), {});
  }

  /** Keep a kernel on the GPU for so long; until when it is kept. */
  async pin(kernelId: string, seconds: number): Promise<Instant> {
    return (await this.write<{ pinned_until: Instant }>('PUT', kernel(kernelId, 'pin'), { seconds })).pinned_until;
  }

  async unpin(kernelId: string): Promise<void> {
    await this.write('DELETE', kernel(kernelId, 'pin'));
  }

  private address(path: string, query: Query): string {
    return URLExt.join(this.settings.baseUrl, ROOT, path) + queryString(query);
  }

  private read<T>(path: string, query: Query = {}): Promise<T> {
    return this.call<T>('GET', path, { ...query, no_track_activity: '1' });
  }

  private write<T>(method: string, path: string, body?: object): Promise<T> {
    return this.call<T>(method, path, {}, body);
  }

  private async call<T>(method: string, path: string, query: Query, body?: object): Promise<T> {
    const address = this.address(path, query);
    const init = { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(address, init, this.settings);
    } catch (error) {
      throw new ApiProblem('unreachable', error instanceof Error ? error.message : String(error));
    }
    if (path === 'status') {
      this.hear(response.headers.get('Date')); // of the answer whose instants are held against it
    }
    const reply = await jsonIn(response);
    if (response.ok) {
      return reply as T;
    }
    throw problemOf(response, reply);
  }

  /** Take in what time it is there: whole seconds, a moment ago. */
  private hear(date: string | null): void {
    const ahead = date === null ? NaN : Date.parse(date) - Date.now();
    this.aheadMs = Math.abs(ahead) >= CLOCK_MS ? ahead : 0;
  }
}

/** Whether an event of the server's stream is one of ours, so that there is something new to look at. */
export function isOurEvent(schemaId: string): boolean {
  return schemaId.startsWith(EVENTS);
}

type Query = Record<string, string | string[] | undefined>;

function kernel(id: string, what: string): string {
  return `kernels/${encodeURIComponent(id)}/${what}`;
}

function queryString(query: Query): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of value === undefined ? [] : [value].flat()) {
      pairs.append(name, item);
    }
  }
  const text = pairs.toString();
  return text ? `?${text}` : '';
}

/** The reply's JSON; null where there is none, as in what a proxy or another handler says. */
async function jsonIn(response: Response): Promise<unknown> {
  const text = await response.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function problemOf(response: Response, reply: unknown): ApiProblem {
  const { reason, message } = (reply ?? {}) as { reason?: unknown; message?: unknown };
  const said = typeof message === 'string' ? message : response.statusText;
  // Jupyter's own 404 has a message but no reason of ours.
  if (response.status === 404 && (typeof reason !== 'string' || !reason.startsWith('unknown_'))) {
    return new ApiProblem('absent', said);
  }
  if (response.status === 401 || response.status === 403) {
    return new ApiProblem('forbidden', said);
  }
  if (response.status >= 502 && typeof reason !== 'string') {
    return new ApiProblem('unreachable', said);
  }
  return new ApiProblem('refused', said, typeof reason === 'string' ? reason : '');
}
