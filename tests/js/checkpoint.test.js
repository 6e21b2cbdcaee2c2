import assert from 'node:assert/strict';
import {test} from 'node:test';
import {setTimeout as wait} from 'node:timers/promises';

globalThis.document = {hidden: false, addEventListener() {}};
globalThis.Option = class {
  constructor(label, value) {
    Object.assign(this, {label, value});
  }
};
const {mount} = await import('../../wanact/ui/web/checkpoint.js');

const step = (number, latest) => ({id: `run/${number}`, label: `step ${number}`, run: 'run', latest});
const listingOf = choices => ({choices, default: choices[0].id, damaged: 0});

globalThis.setInterval = () => 0; // it looks again now and then, for as long as the page stands

// A picker on a list that a training has gone on with since the app began.
async function pick(value) {
  const select = {options: [], offsetParent: null, addEventListener() {}, replaceChildren() {}};
  const remark = {textContent: ''};
  const element = {querySelector: name => (name === 'select' ? select : remark), closest: () => null};
  const props = {value, listing: listingOf([step(2, true), step(1, false)])};
  const server = {list_checkpoints: async () => listingOf([step(3, true), step(2, false), step(1, false)])};
  mount({element, props, server, trigger() {}, watch() {}});
  await wait(50);
  return {props, select, remark};
}

test('who chose the latest step goes on to the one that is the latest now, and nobody else', async () => {
  assert.equal((await pick('run/2')).props.value, 'run/3');
  assert.equal((await pick('run/1')).props.value, 'run/1');
});

test('the latest step is chosen again where the component was still being made', async () => {
  const {props, select, remark} = await pick('run/2');
  props.value = 'run/2'; // as Gradio sets it when it has made the component
  await wait(900);
  assert.equal(props.value, 'run/3');
  assert.equal(select.value, 'run/3');
  assert.match(remark.textContent, /new step/);
});
