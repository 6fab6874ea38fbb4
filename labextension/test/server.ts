/** A server of a few lines: it answers what it was told to, and remembers what it was asked. */

import { ServerConnection, type Event } from '@jupyterlab/services';
import { Stream } from '@lumino/signaling';

import { Api } from '../src/api';
import { Model } from '../src/model';

export interface Asked {
  method: string;
  path: string;
  query: URLSearchParams;
  body: unknown;
}

/** What to answer: a body with a code, or an error as a network has it. */
export type Answer = { code: number; body?: unknown; text?: string } | Error;

export class TestServer {
  readonly asked: Asked[] = [];
  readonly answers = new Map<string, Answer>();
  readonly events = new Stream<Event.IManager, Event.Emission>({} as Event.IManager);
  readonly api: Api;
  /** By how much its clock is ahead; null: it does not say what time it is. */
  aheadMs: number | null = null;

  constructor() {
    const fetch = async (input: RequestInfo | URL): Promise<Response> => this.answer(input as Request);
    this.api = new Api(ServerConnection.makeSettings({ baseUrl: 'http://server/base/', fetch, token: '' }));
  }

  model(refreshSeconds = 3600): Model {
    return new Model({ api: this.api, events: this.events, refreshSeconds });
  }

  /** Asked for "GET status", and so on. */
  times(call: string): number {
    return this.asked.filter(({ method, path }) => `${method} ${path}` === call).length;
  }

  private async answer(request: Request): Promise<Response> {
    const address = new URL(request.url);
    const path = address.pathname.replace('/base/gpu-reclaim/api/', '');
    const text = await request.text();
    this.asked.push({ method: request.method, path, query: address.searchParams, body: text ? JSON.parse(text) : undefined });
    const answer = this.answers.get(`${request.method} ${path}`) ?? { code: 404, text: '<html>not found</html>' };
    if (answer instanceof Error) {
      throw answer;
    }
    const body = answer.text ?? (answer.body === undefined ? null : JSON.stringify(answer.body));
    const headers: HeadersInit = this.aheadMs === null ? {} : { Date: new Date(Date.now() + this.aheadMs).toUTCString() };
    return new Response(body, { status: answer.code, headers });
  }
}
