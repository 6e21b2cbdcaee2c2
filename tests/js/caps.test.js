import assert from 'node:assert/strict';
import {afterEach, test} from 'node:test';
import {learnCaps, writeCaps} from '../../wanact/ui/web/caps.js';
import {CHANNELS} from '../../wanact/ui/web/channels.js';

const usual = CHANNELS.map(channel => channel.key);
const caps = () =>
  CHANNELS.slice(0, 4)
    .map(channel => channel.key)
    .join('');
const FRENCH = new Map([
  ['KeyW', 'z'],
  ['KeyA', 'q'],
  ['KeyS', 's'],
  ['KeyD', 'd'],
]);

afterEach(() => {
  usual.forEach((key, i) => {
    CHANNELS[i].key = key;
  });
});

test('caps carry the letters of the keyboard, and arrows stay arrows', async () => {
  await learnCaps({getLayoutMap: async () => FRENCH});
  assert.equal(caps(), 'ZSQD');
  assert.equal(CHANNELS[4].key, '←');
});

test('where the browser tells nothing, or is not allowed to, the usual letters stand', async () => {
  const refused = async () => {
    throw new DOMException('a frame', 'SecurityError');
  };
  for (const keyboard of [undefined, {}, {getLayoutMap: refused}, {getLayoutMap: () => new Promise(() => {})}]) {
    await learnCaps(keyboard);
    assert.equal(caps(), 'WSAD');
  }
});

test('a component without words of its own is left alone', () => {
  writeCaps({isConnected: true});
});
