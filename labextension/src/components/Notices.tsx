/** What is wrong or unusual, above everything else. */

import * as React from 'react';

import type { Notice } from '../select/notices';

export function Notices({ notices }: { notices: Notice[] }): JSX.Element | null {
  if (notices.length === 0) {
    return null;
  }
  return (
    <ul className="jp-GpuReclaim-notices">
      {notices.map(notice => (
        <li key={notice.title + notice.text} data-tone={notice.tone}>
          <strong>{notice.title}</strong>
          <span>{notice.text}</span>
        </li>
      ))}
    </ul>
  );
}
