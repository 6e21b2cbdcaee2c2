import assert from 'node:assert/strict';
import {test} from 'node:test';
import {withoutLateWord} from '../../wanact/ui/web/cancelled.js';

test('progress that comes after the cancelling does not count, that of the next work does', () => {
  const word = withoutLateWord();
  const seen = ['queued', 'working', 'cancelled', 'working', 'queued', 'working', 'done'].map(s => word({status: s}));
  assert.deepEqual(
    seen.map(value => value.status),
    ['queued', 'working', 'cancelled', 'cancelled', 'queued', 'working', 'done'],
  );
});

test('whatever else comes after the cancelling is shown', () => {
  const word = withoutLateWord();
  word({status: 'cancelled'});
  assert.equal(word({status: 'failed', message: 'no'}).message, 'no');
  assert.equal(word({status: 'done'}).status, 'done');
});
