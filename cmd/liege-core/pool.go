package main

import (
	"fmt"
	"log/slog"

	"liege/serve"
	"liege/serve/worker"
	"liege/serve/worker/lang"
	"liege/serve/worker/perl"
	"liege/serve/worker/python"
	"liege/serve/worker/ruby"
	"liege/vassal"
)

// newPool makes what runs the application. A core starts no other processes,
// so the pool takes and reaps all that the application leaves behind.
//
// changed is called when the application's code has changed.
func newPool(app *vassal.App, changed func(file string), log *slog.Logger) (serve.Application, error) {
	pool, err := worker.NewMounted(app, newRuntime, log)
	if err != nil {
		return nil, err
	}
	pool.Adopt, pool.Changed = true, changed
	return pool, nil
}

// newRuntime is the language of app's workers; nil where it has none.
func newRuntime(app *vassal.App) (lang.Runtime, error) {
	w := app.Workers
	switch {
	case w == nil:
		return nil, nil
	case w.Language == "python" && w.Python != nil:
		return python.New(app), nil
	case w.Language == "ruby" && w.Ruby != nil:
		return ruby.New(app), nil
	case w.Language == "perl" && w.Perl != nil:
		return perl.New(app), nil
	}
	return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotYet, Step: lang.Step,
		Message: fmt.Sprintf("workers of language %q are not in this build", w.Language)}
}
