import {collect, connect, placeOf} from './events.js';

export function mount({element, props, trigger, server, watch}) {
  const {hear} = connect(element);
  const select = element.querySelector('select');
  const remark = element.querySelector('p');
  let shown = '';
  let gone = '';
  let news = '';
  let brought = null; // brought: an upload, which no list names

  function fill(listing) {
    if (JSON.stringify(listing) === shown) return;
    follow(shown ? JSON.parse(shown).choices : [], listing.choices);
    shown = JSON.stringify(listing);
    const choices = [...(brought ? [brought] : []), ...listing.choices];
    select.replaceChildren(...choices.map(choice => new Option(choice.label, choice.id)));
    if (!choices.some(choice => choice.id === props.value)) {
      gone = props.value ? `${props.value} is not there any more. ` : '';
      props.value = listing.default;
    }
    mark();
  }
  // While a run trains, who chose its latest step goes on to the one that is the latest now; any other choice stays.
  function follow(before, choices) {
    const was = before.find(choice => choice.id === props.value);
    const now = was?.latest && choices.find(choice => choice.run === was.run && choice.latest);
    if (!now || now.id === was.id) return;
    const go = () => {
      props.value = now.id;
      trigger('input');
    };
    news = `${was.run} has a new step; the latest is chosen, as before. `;
    go();
    setTimeout(() => {
      // a value that is set while the component is being made is lost
      if (props.value !== was.id) return;
      go();
      mark();
    }, 700);
  }
  function mark() {
    select.value = props.value;
    const listing = JSON.parse(shown);
    const damaged = listing.damaged;
    remark.textContent =
      gone +
      news +
      (props.value === 'base' ? 'The base model draws the scene and ignores the flight plan. ' : '') +
      (damaged ? `${damaged} damaged checkpoint${damaged > 1 ? 's are' : ' is'} left out.` : '');
  }
  select.addEventListener('change', () => {
    gone = news = '';
    props.value = select.value;
    mark();
    trigger('input');
  });

  // The Checkpoints page has chosen for this one.
  function choose() {
    const chosen = collect('checkpoint-' + placeOf(element));
    if (!chosen) return;
    const {id, label} = chosen;
    if (id.startsWith('upload/')) brought = {id, label};
    gone = news = '';
    props.value = id;
    const listing = JSON.parse(shown);
    shown = '';
    if (!id.startsWith('upload/') && !listing.choices.some(choice => choice.id === id))
      listing.choices.push({id, label});
    fill(listing);
    trigger('input');
  }
  hear('choose-checkpoint', ({place}) => {
    if (place === placeOf(element)) choose();
  });

  // A run that is training adds checkpoints: look again before the list is opened, and now and then.
  let looking = false;
  async function look() {
    if (looking || document.hidden) return;
    looking = true;
    try {
      fill(await server.list_checkpoints({}));
    } catch {
      /* the server is away; the list stands as it is */
    }
    looking = false;
  }
  select.addEventListener('pointerenter', look);
  select.addEventListener('focus', look);
  setInterval(() => {
    if (select.offsetParent) look();
  }, 20000);
  watch('value', async () => {
    await look();
    mark();
  });
  fill(props.listing);
  setTimeout(look);
  setTimeout(choose, 300); // left for a place that had not been in sight
}
