// pg-boss as a contender: its batches, its bursts, and its notifications.
//
// A handler is given a whole batch, and all of it is completed when the handler
// returns. The library has no event for that, so what counts is seen at its
// connection: the answer to the statement that marks the tasks as completed.

import { PgBoss } from 'pg-boss'
import {
  createAll, createChunks, drain, keepSteady, payload, pickUp, serve, versionOf,
} from './program.mjs'

const NAME = 'bench'
const CONNECTIONS = 24
const CHUNK = 5_000
const CHUNKS_AT_ONCE = 2
const COMPLETION = /state = 'completed',\s+output = /
const WORK = { batchSize: 2_000, localConcurrency: 2, burstWhenBatchFull: true }

let boss
let target
let ledger

async function start() {
  boss = new PgBoss({ connectionString: target, max: CONNECTIONS, useListenNotify: true })
  boss.on('error', console.error)
  await boss.start()
  const db = boss.getDb()
  const executeSql = db.executeSql.bind(db)
  db.executeSql = async (text, values, ...rest) => {
    const answer = await executeSql(text, values, ...rest)
    if (COMPLETION.test(text)) ledger.committed(values[1])
    return answer
  }
}

/** Runs `workload` beside workers, whose handler does nothing but say what it was given. */
async function beside(newLedger, workload) {
  ledger = newLedger
  await boss.work(NAME, WORK, async (batch) => {
    for (const { id, data } of batch) ledger.started(id, data.i)
  })
  try {
    return await workload()
  } finally {
    await boss.offWork(NAME, { wait: true })
  }
}

const create = (i) => boss.send(NAME, payload(i))

await serve({
  async introduce(dsn) {
    target = dsn
    await start()
    return {
      name: 'pg-boss',
      version: versionOf('pg-boss'),
      settings:
        'partitioned with notify, batchSize 2000, localConcurrency 2, burstWhenBatchFull;'
        + ` insert by ${CHUNK}, ${CHUNKS_AT_ONCE} at once`,
      durability:
        'logged tables; locked and completed by an update per batch of up to 2000, a commit each;'
        + ' history for 7 days; one error fails a whole batch',
    }
  },
  close: () => boss?.stop({ graceful: false }),
  async prepare() {
    // Its own caches do not survive the loss of its tables.
    await boss.getDb().executeSql('DROP SCHEMA IF EXISTS pgboss CASCADE')
    await boss.stop({ graceful: false })
    await start()
    await boss.createQueue(NAME, { partition: true, notify: true })
  },
  create_bulk: ({ count }) =>
    createChunks(count, CHUNK, CHUNKS_AT_ONCE, (payloads) =>
      boss.insert(NAME, payloads.map((data) => ({ data })))),
  create_single: ({ count, concurrency }) => createAll(count, concurrency, create),
  drain: ({ count }) => drain(count, beside),
  pickup: ({ count }) => pickUp(count, beside, create),
  steady: ({ rate, seconds }) => keepSteady(rate, seconds, beside, create),
})
