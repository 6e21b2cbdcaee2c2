import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Addresses, placeIn, saysAll, startIn} from '../../wanact/ui/web/address.js';

test('an address says where it leads as the tabs do', () => {
  assert.equal(placeIn('?tab=fly'), 'live');
  assert.equal(placeIn('?tab=plan'), 'fly');
  assert.equal(placeIn('?tab=checkpoints'), 'checkpoints');
  assert.equal(placeIn('?compare=abc'), 'compare', 'a link to a comparison');
  assert.equal(placeIn('?compare=abc&tab=plan'), 'fly');
  assert.equal(placeIn('?__theme=dark'), null);
});

test('a first frame in the address is of its place alone', () => {
  assert.equal(startIn('?tab=fly&start=coast', 'live'), 'coast');
  assert.equal(startIn('?tab=fly&start=coast', 'fly'), null);
  assert.ok(saysAll('?compare=abc', 'compare') && !saysAll('?compare=abc', 'live') && !saysAll('?tab=fly', 'live'));
});

test('each place keeps what it has said in the address, and what belongs to all stays', () => {
  const addresses = new Addresses();
  const compared = '?__theme=dark&compare=abc&tab=compare';
  addresses.leave('compare', compared);
  const plan = addresses.of('fly', compared);
  assert.equal(plan, '?__theme=dark&tab=plan');
  const started = addresses.withStart('fly', plan, 'coast');
  assert.equal(started, '?__theme=dark&tab=plan&start=coast');
  addresses.leave('fly', started);
  assert.equal(addresses.of('compare', started), compared);
  assert.equal(addresses.of('fly', compared), started);
  assert.equal(addresses.withStart('fly', started, ''), plan, 'a picture of their own has no address');
});
