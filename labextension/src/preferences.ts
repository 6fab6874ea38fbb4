/** What the user has set, as `schema/plugin.json` describes it. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';

import type { Units } from './select/words';

export class Preferences {
  readonly changed = new Signal<this, void>(this);
  refreshSeconds = 5;
  warnings = true;
  earlyRestore = true;
  units: Units = 'binary';

  /** Follow the settings from now on. */
  follow(settings: ISettingRegistry.ISettings): void {
    const read = (): void => {
      this.refreshSeconds = settings.get('refreshSeconds').composite as number;
      this.warnings = settings.get('warnings').composite as boolean;
      this.earlyRestore = settings.get('earlyRestore').composite as boolean;
      this.units = settings.get('units').composite as Units;
      this.changed.emit();
    };
    settings.changed.connect(read);
    read();
  }
}
