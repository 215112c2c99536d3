// Timers that count, workers that compute what is known, promises and files in between.
const fs = require('fs');
const { Worker } = require('worker_threads');
const stop = process.argv[process.argv.length - 1];
const TOLERANCE = 10000;

function fail(reason) {
  fs.writeSync(1, `FAIL: ${reason}\n`);
  process.exit(1);
}
process.on('SIGHUP', () => fs.writeSync(1, 'signal SIGHUP\n'));
process.on('uncaughtException', (error) => fail(error.stack));

const source = `
  const { parentPort } = require('worker_threads');
  const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));
  parentPort.on('message', (n) => parentPort.postMessage(fib(n)));
`;
const answered = [0, 0];
const workers = answered.map((_, i) => {
  const worker = new Worker(source, { eval: true });
  worker.on('error', (error) => fail(error.stack));
  worker.on('message', (value) => {
    if (value !== 196418) fail(`a worker says ${value}`);
    answered[i]++;
    worker.postMessage(27);
  });
  worker.postMessage(27);
  return worker;
});

const begin = process.hrtime.bigint();
let ticks = 0;
let last = begin;
setInterval(() => {
  ticks++;
  const now = process.hrtime.bigint();
  if (now < last) fail('the clock ran backwards');
  if (now - last > BigInt(TOLERANCE) * 1000000n) fail(`a silence of ${(now - last) / 1000000n} ms`);
  last = now;
  if (ticks * 20 > Number((now - begin) / 1000000n) + 100) fail('an interval is too fast');
}, 20);

(async () => {
  let round = 0;
  for (;;) {
    const before = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 100));
    const took = performance.now() - before;
    if (took < 98 || took > 100 + TOLERANCE) fail(`a timeout of 100 ms took ${took} ms`);
    await fs.promises.writeFile(`${stop}.node`, `round ${round}`);
    if ((await fs.promises.readFile(`${stop}.node`, 'utf8')) !== `round ${round}`) fail('a file has other content');
    round++;
    if (fs.existsSync(stop)) {
      if (!answered.every((count) => count > 0) || ticks === 0) fail(`idle: ${answered} ${ticks}`);
      fs.writeSync(1, 'PASS\n');
      process.exit(0);
    }
    if (round === 1) fs.writeSync(1, 'ready\n');
  }
})().catch((error) => fail(error.stack));
