import { CommandRegistry } from '@lumino/commands';
import { MessageLoop } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import { act } from 'react';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Model } from '../src/model';
import { Preferences } from '../src/preferences';
import { Sidebar } from '../src/sidebar';
import { TestServer } from './server';
import { aKernel, aReclaimedKernel, aStatus, language } from './worlds';

let server: TestServer;
let model: Model;
let sidebar: Sidebar;

beforeEach(async () => {
  server = new TestServer();
  model = server.model();
  await new Promise(resolve => window.setTimeout(resolve)); // its first look is begun
  sidebar = new Sidebar({ model, preferences: new Preferences(), language }, new CommandRegistry(), null);
});

afterEach(() => {
  act(() => sidebar.dispose());
  model.dispose();
});

async function see(...kernels: Parameters<typeof aStatus>): Promise<void> {
  server.answers.set('GET status', { code: 200, body: aStatus(...kernels) });
  await act(async () => {
    await model.look();
    MessageLoop.flush();
  });
}

function attach(): void {
  act(() => Widget.attach(sidebar, document.body));
}

const states = () => [...sidebar.node.querySelectorAll('.jp-GpuReclaim-row')].map(row => row.getAttribute('data-state'));

describe('the sidebar', () => {
  it('draws nothing while a button is held down, and catches up when it is let go', async () => {
    attach();
    await see([aKernel()]);
    sidebar.node.dispatchEvent(new MouseEvent('pointerdown', { button: 0 }));
    await see([aReclaimedKernel()]);
    expect(states()).toEqual(['resident']);
    await act(async () => {
      window.dispatchEvent(new MouseEvent('pointerup'));
      await new Promise(resolve => window.setTimeout(resolve));
      MessageLoop.flush();
    });
    expect(states()).toEqual(['reclaimed']);
  });

  it('draws again after it was taken away while a button was held down', async () => {
    attach();
    await see([aKernel()]);
    sidebar.node.dispatchEvent(new MouseEvent('pointerdown', { button: 0 }));
    act(() => Widget.detach(sidebar));
    window.dispatchEvent(new MouseEvent('pointerup'));
    attach();
    await see([aReclaimedKernel()]);
    expect(states()).toEqual(['reclaimed']);
  });

  it.each(['pointerenter', 'focusin'])('asks when somebody comes to it: %s', async arrival => {
    attach();
    await see([aKernel()]);
    const looks = server.times('GET status');
    server.answers.set('GET status', { code: 200, body: aStatus([aReclaimedKernel()]) });
    sidebar.node.dispatchEvent(new FocusEvent(arrival)); // from nowhere in it
    await act(async () => {
      await model.look();
      MessageLoop.flush();
    });
    expect(server.times('GET status')).toBe(looks + 2);
    expect(states()).toEqual(['reclaimed']);
  });

  it('does not ask while the focus goes about in it', async () => {
    attach();
    await see([aKernel()]);
    const looks = server.times('GET status');
    sidebar.node.dispatchEvent(new FocusEvent('focusin', { relatedTarget: sidebar.node.querySelector('button') }));
    await act(() => model.look());
    expect(server.times('GET status')).toBe(looks + 1);
  });

  it('asks as soon as it comes into sight', async () => {
    attach();
    await see([aKernel()]);
    const looks = server.times('GET status');
    act(() => sidebar.hide());
    await model.look();
    expect(server.times('GET status')).toBe(looks + 1);
    act(() => sidebar.show());
    await vi.waitFor(() => expect(server.times('GET status')).toBe(looks + 2));
  });
});
