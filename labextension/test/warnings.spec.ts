import { Notification } from '@jupyterlab/apputils';
import { PromiseDelegate } from '@lumino/coreutils';
import { CommandRegistry } from '@lumino/commands';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { Warnings } from '../src/attention';
import type { Model } from '../src/model';
import { Preferences } from '../src/preferences';
import { CommandIDs } from '../src/tokens';
import type { Kernel } from '../src/types';
import { TestServer } from './server';
import { aKernel, aReclaimedKernel, aStatus, instant, language } from './worlds';

let server: TestServer;
let model: Model;
let preferences: Preferences;
let ready: PromiseDelegate<void>;
let kept: unknown[];

beforeEach(() => {
  server = new TestServer();
  model = server.model();
  preferences = new Preferences();
  ready = new PromiseDelegate();
  kept = [];
  const commands = new CommandRegistry();
  commands.addCommand(CommandIDs.keep, { execute: args => kept.push(args) });
  new Warnings({ model, preferences, language }, commands, ready.promise);
});

afterEach(() => {
  model.dispose();
  Notification.dismiss();
});

const warned = (id: string, at = instant(0)): Kernel => aKernel({ kernel_id: id, label: `${id}.ipynb`, warned_at: at });

async function see(...kernels: Kernel[]): Promise<void> {
  server.answers.set('GET status', { code: 200, body: aStatus(kernels) });
  await model.look();
}

/** The notebooks that notifications are about, the newest first. */
function shown(): string[] {
  return Notification.manager.notifications.map(({ message }) => message.split(' ')[0] ?? '');
}

describe('a warning before a reclaim', () => {
  it('is told on a page that comes after it, once the page can show it', async () => {
    await see(warned('early'));
    expect(shown()).toEqual([]);
    ready.resolve();
    await ready.promise;
    expect(shown()).toEqual(['early.ipynb']);
  });

  it('is told once, and again when it is given anew', async () => {
    ready.resolve();
    await see(aKernel({ kernel_id: 'a' }));
    await see(warned('a'));
    await see(warned('a'), aReclaimedKernel({ kernel_id: 'other' }));
    expect(shown()).toEqual(['a.ipynb']);
    const [first] = Notification.manager.notifications;
    await see(warned('a', instant(60)), aReclaimedKernel({ kernel_id: 'other' }));
    expect(shown()).toEqual(['a.ipynb']);
    expect(Notification.manager.has(first?.id ?? '')).toBe(false);
  });

  it('is taken back when it is no longer true, and not told of what is reclaimed already', async () => {
    ready.resolve();
    await see(warned('used'), warned('reclaimed'));
    expect(shown()).toHaveLength(2);
    await see(aKernel({ kernel_id: 'used' }), { ...aReclaimedKernel({ kernel_id: 'reclaimed' }), warned_at: instant(0) });
    expect(shown()).toEqual([]);
  });

  it('keeps the notebook when asked to', async () => {
    ready.resolve();
    await see(warned('a'));
    Notification.manager.notifications[0]?.options.actions?.[0]?.callback(new MouseEvent('click'));
    expect(kept).toEqual([{ kernelId: 'a', seconds: 3600 }]);
  });

  it('is one for many notebooks, and stands as long as one of them is warned', async () => {
    ready.resolve();
    const many = ['a', 'b', 'c', 'd'].map(id => warned(id));
    await see(...many);
    expect(shown()).toEqual(['4']);
    await see(...many.slice(1));
    expect(shown()).toEqual(['4']);
    await see(aKernel());
    expect(shown()).toEqual([]);
  });

  it('is not told to those who do not want it, and is once they do', async () => {
    preferences.warnings = false;
    ready.resolve();
    await see(warned('a'));
    expect(shown()).toEqual([]);
    preferences.warnings = true;
    preferences.changed.emit();
    expect(shown()).toEqual(['a.ipynb']);
  });
});
