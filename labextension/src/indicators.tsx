/** A notebook's state in its toolbar, and everybody's in the status bar. */

import type { NotebookPanel } from '@jupyterlab/notebook';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { IndicatorButton } from './components/IndicatorButton';
import { indicatorOf, statusBarOf, type Indicator } from './select/indicator';
import { stateOf } from './select/rows';
import type { IGpuReclaim } from './tokens';

export class NotebookIndicator extends ReactWidget {
  constructor(
    private readonly panel: NotebookPanel,
    private readonly gpuReclaim: IGpuReclaim,
    private readonly openSidebar: () => void
  ) {
    super();
    this.addClass('jp-GpuReclaim-toolbar');
    gpuReclaim.model.changed.connect(this.update, this);
    gpuReclaim.preferences.changed.connect(this.update, this);
    panel.sessionContext.kernelChanged.connect(this.update, this);
    panel.sessionContext.statusChanged.connect(this.onKernelStatus, this);
  }

  protected override render(): JSX.Element | null {
    const { model, language } = this.gpuReclaim;
    const { status } = model.state;
    const id = this.panel.sessionContext.session?.kernel?.id;
    const kernel = status?.kernels.find(kernel => kernel.kernel_id === id);
    const indicator = status && indicatorOf(kernel, status, model.now(), language);
    return indicator && <IndicatorButton indicator={indicator} onAim={() => this.update()} onClick={this.openSidebar} />;
  }

  /** A cell begins or ends. What comes of it is worth seeing soon, and at once where the notebook was reclaimed. */
  private onKernelStatus(): void {
    const { model } = this.gpuReclaim;
    const { status } = model.state;
    const id = this.panel.sessionContext.session?.kernel?.id;
    const kernel = status?.kernels.find(kernel => kernel.kernel_id === id);
    model.stir();
    if (kernel && kernel.phase !== 'resident' && stateOf(kernel, model.now()) !== 'lost') {
      void model.look();
    }
  }
}

export class StatusBarItem extends ReactWidget {
  readonly activeChanged = new Signal<this, void>(this);
  private active = false;

  constructor(
    private readonly gpuReclaim: IGpuReclaim,
    private readonly openSidebar: () => void
  ) {
    super();
    this.addClass('jp-GpuReclaim-statusbar');
    gpuReclaim.model.changed.connect(this.onChange, this);
    gpuReclaim.preferences.changed.connect(this.update, this);
  }

  get isActive(): boolean {
    return this.active;
  }

  protected override render(): JSX.Element | null {
    const indicator = this.indicator();
    return indicator && <IndicatorButton indicator={indicator} onAim={() => this.update()} onClick={this.openSidebar} />;
  }

  private indicator(): Indicator | null {
    const { model, language } = this.gpuReclaim;
    return model.state.status && statusBarOf(model.state.status, model.now(), language);
  }

  private onChange(): void {
    const active = this.indicator() !== null;
    if (active !== this.active) {
      this.active = active;
      this.activeChanged.emit();
    }
    this.update();
  }
}
