// A worker with Camunda's JavaScript client, as anybody would write one.
//
// Its one argument is its options as JSON: where the broker is, and which handler is for which
// topic. What the handlers do is told in handlers.py, which has the same ones for Python; those
// with locks are only here, because Python's client has no word for them. Standard output has a
// line for each thing that is worth waiting for.

import { appendFileSync, existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { Client, File, Variables } from 'camunda-external-task-client-js'

const { baseUrl, workerId, topics, lockMs, pollMs, log } = JSON.parse(process.argv[2])

const LONG_MS = 600_000
const LOOK_MS = 10

const say = (line) => process.stdout.write(`${line}\n`)
const met = new Set()

/** Whether the worker sees the task for the first time. */
const isNew = ({ id }) => !met.has(id) && met.add(id)

const handlers = {
  async work({ task, taskService }) {
    await taskService.complete(task, new Variables().setAll(task.variables.getAll()))
    if (log) appendFileSync(log, `${task.id}\n`)
  },

  async types({ task, taskService }) {
    const file = new File({
      localPath: task.variables.get('path'), mimetype: 'text/plain', encoding: 'UTF-8',
    })
    const date = new Date('2026-01-31T10:00:00.123Z')
    const variables = new Variables()
      .setAll({
        nothing: null, yes: true, integer: 7, long: 2 ** 40, double: 1.5, text: 'Grüße 🦊', date,
        object: { a: [1, { b: null }] }, list: [1, 'two'], file: await file.load(),
      })
      .setAllTyped({
        short: { type: 'Short', value: 8 },
        smallLong: { type: 'Long', value: 9, valueInfo: {} },
        wholeDouble: { type: 'Double', value: 3 },
        bytes: { type: 'Bytes', value: Buffer.from([0, 255, 1]).toString('base64') },
        xml: { type: 'Xml', value: '<a b="c"/>' },
        jsonText: { type: 'Json', value: '{"z": 1, "a": [2.50]}' },
        jsonNumber: { type: 'Json', value: 5 },
        nullDate: { type: 'Date', value: null },
        java: {
          type: 'Object',
          value: '{"n":1}',
          valueInfo: { objectTypeName: 'a.B', serializationDataFormat: 'application/json' },
        },
      })
    await taskService.complete(task, variables)
  },

  async echo({ task, taskService }) {
    const seen = task.variables.getAllTyped()
    for (const typed of Object.values(seen)) {
      if (typed.value instanceof File) {
        typed.value = (await typed.value.load()).content.toString('base64')
      }
    }
    await taskService.complete(task, new Variables().set('seen', seen))
  },

  async flaky({ task, taskService }) {
    if (isNew(task)) {
      await taskService.handleFailure(task, {
        errorMessage: 'no luck',
        errorDetails: 'line 1\nline 2',
        retries: task.variables.get('retries'),
        retryTimeout: task.variables.get('retryTimeout'),
      })
      return say(`failed ${task.id}`)
    }
    const { retries, errorMessage, errorDetails } = task
    const told = { retries, errorMessage, errorDetails }
    return taskService.complete(task, new Variables().set('told', told))
  },

  // Python's client sends no variables with a failure.
  async noting({ task, taskService }) {
    if (isNew(task)) {
      return taskService.handleFailure(task, {
        errorMessage: 'not yet',
        retries: 1,
        retryTimeout: 0,
        variables: { note: { type: 'Short', value: 8 }, text: { value: 'new' } },
      })
    }
    return handlers.echo({ task, taskService })
  },

  async business({ task, taskService }) {
    await taskService.handleBpmnError(task, 'E1', 'not today', new Variables().set('left', 3))
  },

  async trespass({ task, taskService }) {
    const told = {}
    for (const id of task.variables.get('ids')) {
      told[id] = {
        complete: await refusal(taskService.complete(id)),
        failure: await refusal(taskService.handleFailure(id, { errorMessage: 'x', retries: 0 })),
        bpmnError: await refusal(taskService.handleBpmnError(id, 'E1', 'x')),
        extendLock: await refusal(taskService.extendLock(id, LONG_MS)),
        lock: await refusal(taskService.lock(id, LONG_MS)),
      }
    }
    await taskService.complete(task, new Variables().set('told', told))
  },

  async extend({ task, taskService }) {
    await taskService.extendLock(task, LONG_MS)
    say(`extended ${task.id}`)
    await opening(task)
    await taskService.complete(task)
  },

  async relock({ task, taskService }) {
    await taskService.lock(task, LONG_MS)
    say(`locked ${task.id}`)
    await opening(task)
    await taskService.complete(task)
  },

  /** Takes another task by its id, without ever having fetched it. */
  async reach({ task, taskService }) {
    const other = task.variables.get('other')
    await taskService.lock(other, LONG_MS)
    say(`locked ${other}`)
    await opening(task)
    await taskService.complete(other, new Variables().set('by', task.id))
    await taskService.complete(task)
  },

  async release({ task, taskService }) {
    if (!isNew(task)) return taskService.complete(task)
    await taskService.unlock(task)
    return say(`unlocked ${task.id}`)
  },

  /** Gives the task back, and wants no more of them. */
  async leave({ task, taskService }) {
    subscriptions[task.topicName].unsubscribe()
    await taskService.unlock(task)
    say(`unlocked ${task.id}`)
  },

  /** Gives back a task that is somebody else's. */
  async free({ task, taskService }) {
    await taskService.unlock(task.variables.get('other'))
    await taskService.complete(task)
  },
}

async function opening(task) {
  while (!existsSync(`${task.variables.get('gate')}1`)) await sleep(LOOK_MS)
}

async function refusal(asked) {
  try {
    await asked
  } catch ({ httpStatusCode, type, engineMsg }) {
    return `${httpStatusCode} ${type} ${engineMsg}`
  }
  return 'done'
}

const client = new Client({
  baseUrl,
  workerId,
  interval: LOOK_MS,
  lockDuration: lockMs,
  asyncResponseTimeout: pollMs,
})
for (const event of ['poll:error', 'handler:error']) {
  client.on(event, (error) => console.error(event, String(error)))
}
const subscriptions = Object.fromEntries(
  Object.entries(topics).map(([topic, name]) => [topic, client.subscribe(topic, handlers[name])]),
)
say('ready')
