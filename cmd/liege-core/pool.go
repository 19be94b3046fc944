package main

import (
	"context"
	"log/slog"

	"liege/serve"
	"liege/serve/exchange"
	"liege/vassal"
)

// newPool makes what runs the application.
func newPool(app *vassal.App, _ *slog.Logger) (serve.Application, error) {
	if app.Workers != nil {
		return nil, &vassal.Problem{Severity: vassal.Error, Code: "language", Step: "workers",
			Message: "this build serves static files only"}
	}
	return files{}, nil
}

// files is the application of a vassal that has none.
type files struct{}

func (files) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (files) Ready() <-chan vassal.Problems { return nil }
func (files) Stats() exchange.Stats         { return exchange.Stats{} }
func (files) Serve(context.Context, *exchange.Request, exchange.Response) error {
	return &exchange.StatusError{Status: 404}
}
