package serve

import (
	"bytes"
	"context"
	"math"
	"strconv"
	"unicode/utf8"

	"liege/serve/exchange"
	"liege/vassal"
)

// hold is the handler of a holding generation: it gives every request the same
// answer and reads nothing of it.
type hold struct {
	status int
	fields []exchange.Field
	page   []byte
}

// holdText is the body where the operator named no page.
const holdText = "This site is not available at the moment.\n"

func newHold(a *vassal.Hold) *hold {
	h := &hold{status: a.Status, page: a.Page}
	kind := "text/html"
	if len(h.page) == 0 {
		h.page = []byte(holdText)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(h.page), []byte("<")) {
		kind = "text/plain"
	}
	if utf8.Valid(h.page) {
		kind += "; charset=utf-8"
	}
	h.fields = []exchange.Field{
		{Name: "Content-Type", Value: kind},
		{Name: "Content-Length", Value: strconv.Itoa(len(h.page))},
		{Name: "Cache-Control", Value: "no-store"},
	}
	if s := math.Ceil(a.RetryAfter.Seconds()); s >= 1 { // RFC 9110 10.2.3: whole seconds
		h.fields = append(h.fields, exchange.Field{Name: "Retry-After", Value: strconv.Itoa(int(s))})
	}
	return h
}

// Serve implements exchange.Handler.
func (h *hold) Serve(_ context.Context, r *exchange.Request, w exchange.Response) error {
	r.Info.Backend = "hold"
	if err := w.Head(h.status, "", h.fields); err != nil {
		return err
	}
	_, err := w.Write(h.page)
	return err
}
