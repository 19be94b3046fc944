package main

import (
	"log/slog"

	"liege/serve"
	"liege/serve/worker"
	"liege/vassal"
)

// newPool makes what runs the application. A core starts no other processes,
// so the pool takes and reaps all that the application leaves behind.
func newPool(app *vassal.App, log *slog.Logger) (serve.Application, error) {
	pool, err := worker.New(app, log)
	if err != nil {
		return nil, err
	}
	pool.Adopt = true
	return pool, nil
}
