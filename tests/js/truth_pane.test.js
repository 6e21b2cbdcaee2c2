import assert from 'node:assert/strict';
import {test} from 'node:test';
import {wordOf} from '../../wanact/ui/pages/live/truth_pane.js';

test('the needle has a plain word for every distance', () => {
  assert.deepEqual([0, 29.9, 30, 59, 60, 100].map(wordOf), ['close', 'close', 'drifting', 'drifting', 'lost', 'lost']);
});
