// graphile-worker as a contender, set as the Performance page of its documentation has it.
//
// It reports a success before the completion is committed (completions are
// batched), so what counts is seen where it happens: the answer to the statement
// that deletes the tasks, on the pool that the library is given.

import pg from 'pg'
import {
  createAll, createChunks, drain, keepSteady, payload, pickUp, serve, versionOf,
} from './program.mjs'

// Read while the library loads: it would put together a line for every task, for nobody.
process.env.NO_LOG_SUCCESS = '1'
const { Logger, makeWorkerUtils, run } = await import('graphile-worker')

const CONNECTIONS = 25
const CHUNK = 5_000
const CHUNKS_AT_ONCE = 2
const PRESET = {
  worker: {
    concurrentJobs: 24,
    maxPoolSize: CONNECTIONS,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
}

const logger = new Logger(() => (level, text) => {
  if (level === 'error' || level === 'warning') console.error(text)
})

let pool
let utils
let ledger

/** Sees every completion that PostgreSQL has answered. */
function watch(client) {
  const query = client.query.bind(client)
  client.query = (statement, ...rest) => {
    const answered = query(statement, ...rest)
    if (statement?.name?.startsWith('complete_job')) {
      answered.then(() => ledger.committed(statement.values.flat()), () => {})
    }
    return answered
  }
}

/** Runs `workload` beside a worker, whose handler does nothing but say that it was called. */
async function beside(newLedger, workload) {
  ledger = newLedger
  const taskList = { bench: ({ i }, { job }) => ledger.started(job.id, i) }
  const options = { preset: PRESET, pgPool: pool, logger, noHandleSignals: true }
  const runner = await run({ ...options, taskList })
  try {
    return await workload()
  } finally {
    await runner.stop()
  }
}

const create = (i) => utils.addJob('bench', payload(i))

await serve({
  async introduce(dsn) {
    pool = new pg.Pool({ connectionString: dsn, max: CONNECTIONS })
    pool.on('error', console.error)
    pool.on('connect', watch)
    utils = await makeWorkerUtils({ pgPool: pool, logger })
    return {
      name: 'graphile-worker',
      version: versionOf('graphile-worker'),
      settings:
        "the documentation's performance preset: concurrentJobs 24, localQueue 500,"
        + ' completeJobBatchDelay 0; NO_LOG_SUCCESS;'
        + ` addJobs by ${CHUNK}, ${CHUNKS_AT_ONCE} at once`,
      durability:
        'logged tables; locked by 500 and deleted in batches, a commit each; no history;'
        + ' a crash leaves what was prefetched locked for up to 4 hours',
    }
  },
  async close() {
    await utils?.release()
    await pool?.end()
  },
  async prepare() {
    await pool.query('DROP SCHEMA IF EXISTS graphile_worker CASCADE')
    await utils.migrate()
  },
  create_bulk: ({ count }) =>
    createChunks(count, CHUNK, CHUNKS_AT_ONCE, (payloads) =>
      utils.addJobs(payloads.map((one) => ({ identifier: 'bench', payload: one })))),
  create_single: ({ count, concurrency }) => createAll(count, concurrency, create),
  drain: ({ count }) => drain(count, beside),
  pickup: ({ count }) => pickUp(count, beside, create),
  steady: ({ rate, seconds }) => keepSteady(rate, seconds, beside, create),
})
