import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Playback} from '../../wanact/ui/pages/fly/playback.js';

test('a clip plays in its own time as far as it is drawn, waits for the next frames and goes on from there', () => {
  const clip = new Playback(4);
  assert.equal(clip.at(0), null, 'nothing is there yet');
  clip.add(0, ['a']);
  assert.equal(clip.at(1), 'a');
  assert.equal(clip.at(5), 'a', 'it waits, and does not leap when the next frames come');
  clip.add(1, ['b', 'c', 'd', 'e']);
  assert.equal(clip.at(5.3), 'b');
  assert.equal(clip.at(5.8), 'd');
  assert.equal(clip.at(9), 'e');
  assert.equal(clip.position, 4, 'which is where the finished clip goes on');
});

test('frames that come out of order are shown in theirs', () => {
  const clip = new Playback(4);
  clip.add(1, ['b']);
  assert.equal(clip.at(0), null);
  clip.add(0, ['a']);
  assert.equal(clip.at(0.1), 'a');
  clip.clear();
  assert.equal(clip.at(0.2), null);
});
