import { describe, expect, it } from 'vitest';

import { keepChoices } from '../src/select/keep';
import { bytesInWords, placeInWords, spanInWords, timeInWords } from '../src/select/words';
import { language, NOW } from './worlds';

const { trans } = language;

describe('words', () => {
  it.each([
    [0, '0 B', '0 B'],
    [1023, '1023 B', '1.0 kB'],
    [1024 ** 2, '1.0 MiB', '1.0 MB'],
    [1024 ** 3 - 1, '1.0 GiB', '1.1 GB'],
    [80 * 1024 ** 3, '80.0 GiB', '85.9 GB'],
    [5000 * 1024 ** 4, '5000.0 TiB', '5497.6 TB']
  ])('say %d bytes in either unit', (count, binary, decimal) => {
    expect(bytesInWords(count)).toBe(binary);
    expect(bytesInWords(count, 'decimal')).toBe(decimal);
  });

  it.each([
    [-5, '0 s'],
    [59.9, '59 s'],
    [60, '1 min'],
    [3600, '1 h'],
    [12_000, '3 h 20 min'],
    [187_200, '2 d 4 h']
  ])('say %d seconds', (seconds, words) => {
    expect(spanInWords(seconds)).toBe(words);
  });

  it('say a place in line', () => {
    expect([1, 2, 12].map(place => placeInWords(place, trans))).toEqual(['next in line', 'second in line', 'number 12 in line']);
  });

  it('name the day only where it is another one', () => {
    expect(timeInWords(NOW, NOW, 'en-GB')).toMatch(/^\d\d:\d\d$/);
    expect(timeInWords(new Date(NOW.getTime() + 864e5), NOW, 'en-GB')).toContain('3 Mar');
  });
});

describe('keep', () => {
  const afternoon = new Date(2026, 2, 2, 14, 0);
  const seconds = (most: number | undefined, now = afternoon) =>
    keepChoices({ mode: 'on', max_pin_seconds: most }, now, trans).map(choice => choice.seconds / 3600);

  it('offers an hour, four, and until midnight', () => {
    expect(seconds(12 * 3600)).toEqual([1, 4, 10]);
    expect(seconds(12 * 3600, new Date(2026, 2, 2, 21, 0))).toEqual([1, 3, 4]);
    expect(seconds(12 * 3600, new Date(2026, 2, 2, 23, 59))).toEqual([1, 4]);
  });

  it('goes no further than the operator allows, and says so', () => {
    expect(seconds(2 * 3600)).toEqual([1, 2]);
    expect(keepChoices({ mode: 'on', max_pin_seconds: 7200 }, afternoon, trans)[1]?.label).toContain('the longest allowed');
    expect(seconds(0)).toEqual([]);
  });

  it('says when each ends', () => {
    const choice = keepChoices({ mode: 'on' }, afternoon, trans)[0];
    expect(choice?.label).toContain(timeInWords(new Date(2026, 2, 2, 15, 0), afternoon));
  });
});
