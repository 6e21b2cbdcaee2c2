// Modules load side by side, and components are mounted one after the other as gradio made them: what one tells the
// others when it starts is heard by all that stand before it.
import {learnCaps, writeCaps} from './caps.js';

let turn = learnCaps(); // components name their keys as they are mounted

// Mount a component with what the module that `load` imports exports as `mount`.
//   changed: whether its value has changed since gradio made it; then what it watches is called once more, after it.
export function mountInTurn(load, component, changed) {
  const loading = load();
  loading.catch(() => {}); // it is told below, in turn
  const mounted = turn.then(async () => {
    const {mount} = await loading;
    if (!component.element.isConnected) return; // it has gone in the meantime
    const watched = [];
    const watch = (names, callback) => {
      watched.push(callback);
      component.watch(names, callback);
    };
    const missed = changed();
    mount({...component, watch});
    writeCaps(component.element);
    if (missed) for (const callback of watched) callback();
  });
  turn = mounted.catch(() => {});
  return mounted;
}
