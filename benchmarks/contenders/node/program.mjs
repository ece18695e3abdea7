// The Node side of the line protocol, which benchmarks/program.py describes.
//
// A peer is an object with `introduce`, `close` and a method for each workload.
// What all peers must do alike is here: the payload, the pace of a steady load,
// and the Ledger, which knows what was handled and what was committed. A peer
// that handles a task twice, or says that it is done too early, gets no figure.

import { randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const PAYLOAD_BYTES = 100
const PROGRESS_MS = 500

// A peer that has stood still for so long will not come to an end, and a person waits.
const STALL_MS = 30_000

// Before latencies count: connections are made, code is compiled, the worker listens. Each is told
// from the counted ones by its counter, which is negative.
const WARM_UP_TASKS = 20

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

let done = 0
let toldAtMs = 0

/** So many more tasks are done. Told to the harness now and then. */
export function advance(count) {
  done += count
  const nowMs = performance.now()
  if (nowMs - toldAtMs >= PROGRESS_MS) {
    toldAtMs = nowMs
    say({ progress: done })
  }
}

/** The variables that every contender's task carries: as JSON, 100 bytes. */
export function payload(counter) {
  const variables = { paymentValid: true, chargeId: 'ch_abc123', amount: 100, i: counter, note: '' }
  variables.note = 'x'.repeat(PAYLOAD_BYTES - JSON.stringify(variables).length)
  return variables
}

/** What became of the tasks of one workload, each known by its payload's counter. */
export class Ledger {
  #expected
  #handled = 0
  #committed = 0
  #counters = new Map()
  #startedAtMs = new Map()
  #committedAtMs = new Map()
  #waiting = new Map()
  #changedAtMs = performance.now()

  constructor(expected) {
    this.#expected = expected
  }

  /** A handler was called. */
  started(id, counter) {
    // Counted, not thrown: a library may well swallow the error, and handle the task once more.
    this.#handled++
    if (!this.#startedAtMs.has(counter)) this.#startedAtMs.set(counter, performance.now())
    this.#counters.set(String(id), counter)
    this.#wake(`started ${counter}`)
  }

  /** PostgreSQL has answered the statement that finished these. */
  committed(ids) {
    const nowMs = performance.now()
    for (const id of ids) {
      this.#committedAtMs.set(this.#counters.get(String(id)), nowMs)
    }
    this.#committed += ids.length
    this.#changedAtMs = nowMs
    advance(ids.length)
    if (this.#committed >= this.#expected) this.#wake('all')
  }

  /** Resolves with the time at which the handler of this one began. */
  async handled(counter) {
    if (!this.#startedAtMs.has(counter)) await this.#wait(`started ${counter}`)
    return this.#startedAtMs.get(counter)
  }

  /** Resolves once as many completions are committed as were expected. */
  async settled() {
    if (this.#committed < this.#expected) await this.#wait('all')
  }

  /** Throws unless every task was handled, each once. For when the worker has stopped. */
  verify() {
    const tasks = this.#startedAtMs.size
    const counts = [this.#handled, this.#committed, this.#committedAtMs.size, tasks]
    if (counts.some((one) => one !== this.#expected)) {
      throw new Error(
        `handlers ran ${this.#handled} times and ${this.#committed} completions were committed,`
        + ` for ${tasks} tasks instead of ${this.#expected}`,
      )
    }
  }

  committedAtMs(counter) {
    return this.#committedAtMs.get(counter)
  }

  #wait(what) {
    return new Promise((resolve, reject) => {
      const stalled = setInterval(() => {
        if (performance.now() - this.#changedAtMs < STALL_MS) return
        clearInterval(stalled)
        reject(new Error(`stands still at ${this.#committed} of ${this.#expected} tasks`))
      }, 1_000)
      this.#waiting.set(what, () => {
        clearInterval(stalled)
        resolve()
      })
    })
  }

  #wake(what) {
    this.#waiting.get(what)?.()
    this.#waiting.delete(what)
  }
}

/** Runs `create(i)` for each i below `count`, `concurrency` at a time, and takes the time. */
export async function createAll(count, concurrency, create) {
  const begunAtMs = performance.now()
  let next = 0
  const producer = async () => {
    while (next < count) {
      await create(next++)
      advance(1)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, producer))
  return { seconds: (performance.now() - begunAtMs) / 1_000 }
}

/** Creates `count`, `size` in each call of `create(payloads)`, and takes the time. */
export async function createChunks(count, size, concurrency, create) {
  const chunk = (number) => {
    const first = number * size
    const length = Math.min(size, count - first)
    const payloads = Array.from({ length }, (_, k) => payload(first + k))
    return create(payloads).then(() => advance(length - 1))
  }
  return createAll(Math.ceil(count / size), concurrency, chunk)
}

/** How long a worker, started by `beside(ledger, …)`, takes to finish what is there. */
export async function drain(count, beside) {
  const ledger = new Ledger(count)
  const begunAtMs = performance.now()
  return verified(ledger, beside, async () => {
    await ledger.settled()
    return { seconds: (performance.now() - begunAtMs) / 1_000 }
  })
}

/** One task at a time for an idle worker: create call returned → handler runs. */
export async function pickUp(count, beside, create) {
  const ledger = new Ledger(WARM_UP_TASKS + count)
  return verified(ledger, beside, async () => {
    const latenciesMs = []
    for (let i = -WARM_UP_TASKS; i < count; i++) {
      await sleep(randomInt(5_000, 25_000) / 1_000)
      await create(i)
      const createdAtMs = performance.now()
      // Notified by the commit itself, a worker may well be faster than the answer to its producer.
      latenciesMs.push(Math.max(0, (await ledger.handled(i)) - createdAtMs))
    }
    await ledger.settled()
    return { latencies_ms: latenciesMs.slice(WARM_UP_TASKS) }
  })
}

/** Open loop: the k-th task is created at k / rate, whatever became of the others. */
export async function keepSteady(rate, seconds, beside, create) {
  const count = Math.floor(rate * seconds)
  const ledger = new Ledger(WARM_UP_TASKS + count)
  return verified(ledger, beside, async () => {
    const warmUp = Array.from({ length: WARM_UP_TASKS }, (_, k) => k - WARM_UP_TASKS)
    await Promise.all(warmUp.map((i) => create(i).then(() => ledger.handled(i))))
    const calledAtMs = []
    const creations = []
    const begunAtMs = performance.now()
    while (calledAtMs.length < count) {
      const waitMs = begunAtMs + (calledAtMs.length / rate) * 1_000 - performance.now()
      if (waitMs > 0) await sleep(waitMs)
      else creations.push(create(calledAtMs.push(performance.now()) - 1))
    }
    await Promise.all(creations)
    await ledger.settled()
    const samples = calledAtMs.map((atMs, k) => [k / rate, ledger.committedAtMs(k) - atMs])
    return { samples, created: count }
  })
}

async function verified(ledger, beside, workload) {
  const done = await beside(ledger, workload)
  ledger.verify()
  return done
}

/** The version of a package that `npm install` has put beside this file. */
export function versionOf(name) {
  const description = new URL(`./node_modules/${name}/package.json`, import.meta.url)
  return JSON.parse(readFileSync(description, 'utf8')).version
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Speaks the protocol for `peer` until stdin is closed. */
export async function serve(peer) {
  const oneLine = ({ name, message }) => `${name}: ${message}`.split(/\s+/).join(' ').slice(0, 500)
  process.stdin.on('end', () => setTimeout(() => process.exit(1), 4_000).unref())
  try {
    say({ ready: await peer.introduce(process.argv[2]) })
  } catch (error) {
    say({ error: oneLine(error) })
  }
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...order } = JSON.parse(line)
    done = 0
    toldAtMs = performance.now()
    try {
      say({ done: (await peer[name](order)) ?? {} })
    } catch (error) {
      console.error(error)
      say({ error: oneLine(error) })
    }
  }
  await peer.close()
  process.exit(0)
}
