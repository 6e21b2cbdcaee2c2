// A browser opens six connections to a host, over all of its tabs, and a flight holds one: so many tabs fly at once.
const SEATS = 3;

// Take a seat: a function that gives it back, or null if there is none. Where the browser has no locks (without https),
// every tab has one.
export async function takeSeat(locks = globalThis.navigator?.locks) {
  if (!locks) return () => {};
  for (let seat = 0; seat < SEATS; seat++) {
    const leave = await new Promise((resolve, reject) => {
      locks
        .request(`wanact-seat-${seat}`, {ifAvailable: true}, lock => {
          if (!lock) return resolve(null);
          return new Promise(done => resolve(done)); // held until it is given back, or the tab is closed
        })
        .catch(reject);
    });
    if (leave) return leave;
  }
  return null;
}
