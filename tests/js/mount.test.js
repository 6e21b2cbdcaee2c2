import assert from 'node:assert/strict';
import {test} from 'node:test';
import {mountInTurn} from '../../wanact/ui/web/mount.js';

const module = mount => async () => ({mount});
const component = more => ({element: {isConnected: true}, watch() {}, ...more});

test('components are mounted as they were made, whichever module comes first', async () => {
  const done = [];
  const slow = async () => {
    await new Promise(resolve => setTimeout(resolve, 80));
    return {mount: () => done.push('first')};
  };
  await Promise.all([
    mountInTurn(slow, component(), () => false),
    mountInTurn(
      module(() => done.push('second')),
      component(),
      () => false,
    ),
  ]);
  assert.deepEqual(done, ['first', 'second']);
});

test('one that fails is told and stops no other', async () => {
  const done = [];
  const gone = mountInTurn(
    () => import('./there_is_no_such_module.js'),
    component(),
    () => false,
  );
  const broken = mountInTurn(
    module(() => {
      throw new Error('broken');
    }),
    component(),
    () => false,
  );
  const whole = mountInTurn(
    module(() => done.push('whole')),
    component(),
    () => false,
  );
  await assert.rejects(gone);
  await assert.rejects(broken, /broken/);
  await whole;
  assert.deepEqual(done, ['whole']);
});

test('a value that changed before the module came is told to those who watch', async () => {
  for (const [changed, told] of [
    [true, ['new']],
    [false, []],
  ]) {
    const heard = [];
    const watched = [];
    const made = component({props: {value: 'new'}, watch: names => watched.push(names)});
    const watching = module(({props, watch}) => watch('value', () => heard.push(props.value)));
    await mountInTurn(watching, made, () => changed);
    assert.deepEqual([heard, watched], [told, ['value']]);
  }
});

test('a component that has gone in the meantime is not mounted', async () => {
  const made = component({element: {isConnected: false}});
  await mountInTurn(
    module(() => assert.fail('it was mounted')),
    made,
    () => false,
  );
});
