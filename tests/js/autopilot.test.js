import assert from 'node:assert/strict';
import {test} from 'node:test';
import {sticksOf, wordsOf} from '../../wanact/ui/pages/live/autopilot.js';

test('the sticks stand where the action leads', () => {
  assert.deepEqual(sticksOf([0.05, 0, 0, 0.025, 0, 1.5, 0, 3]), {move: [0.5, -1], look: [0.5, 1]});
  assert.deepEqual(sticksOf([0, 0.05, 0.05, 0, 3, 0, 3, 0]), {move: [-1, 1], look: [-1, -1]});
});

test('the pill says who flies, and to what', () => {
  const task = {by: true, asks: true, next: 2, of: 6, done: 7};
  assert.equal(wordsOf('gates', task), 'Autopilot: gate 2 of 6 · 7 flown');
  assert.equal(wordsOf('gates', task, true), 'Autopilot flies the rings');
  assert.equal(wordsOf('circle', {...task, done: 0}), 'Autopilot circles');
  assert.equal(wordsOf('gates', {...task, asks: false}), 'Autopilot looks for room');
  assert.equal(wordsOf('gates', {...task, by: false}), 'You fly; the autopilot waits');
});
