package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"liege/emperor/control"
	"liege/vassal"
)

// court is an Emperor with one vassal, shop, whose file is broken.
type court struct{}

var broken = vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadValue, File: "/v/shop.ini", Line: 3, Key: "processes", Message: "no number", Hint: "processes = 2"}

func (court) Vassals(context.Context) []control.Vassal {
	return []control.Vassal{{Name: "halt", State: control.Stopped}, {Name: "shop", State: control.Failed}}
}
func (c court) VassalsOf(ctx context.Context, _ int) []control.Vassal { return c.Vassals(ctx) }
func (court) Users() []int                                            { return []int{os.Geteuid()} }
func (court) Refresh(context.Context) error                           { return nil }
func (court) Act(_ context.Context, name string, r control.Request, _ string) control.Outcome {
	if r.Verb == control.Stop {
		return control.Outcome{OK: true, Text: name + ": stopped, generation 1"}
	}
	return control.Outcome{Code: 1, Text: name + ": reload: failed", Problem: &broken}
}
func (court) Await(_ context.Context, name, goal string) control.Outcome {
	if goal == string(control.Failed) {
		return control.Outcome{OK: true, Text: name + ": failed, generation 1"}
	}
	return control.Outcome{Code: 1, Text: name + ": will not be applied: it is failed", Problem: &broken}
}
func (court) Enter(context.Context, string, control.Request, string, []*os.File) control.Outcome {
	return control.Outcome{}
}
func (court) Concurrency() int { return 1 }

// TestReasons: a command that failed says why, and with --json in the form
// that docs/operations.md promises.
func TestReasons(t *testing.T) {
	dir := t.TempDir()
	ln, err := control.Listen(control.Socket(dir), -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		s := &control.Server{Backend: court{}, Group: -1, Version: "1", Log: slog.New(slog.DiscardHandler)}
		done <- s.Serve(ctx, ln)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	const problem = `{"severity":"error","code":"bad-value","file":"/v/shop.ini","line":3,"key":"processes","step":null,"message":"no number","hint":"processes = 2"}`
	for _, tt := range []struct {
		args     string
		code     int
		out, err string // the whole of one, and what is in the other
	}{
		{"logs none", 66, "", "liege: no such vassal: none\n  hint: liege ls\n"},
		{"logs none --json", 66, `{"problems":[{"severity":"error","code":"no-such-vassal","file":null,"line":null,"key":null,"step":null,"message":"no such vassal: none","hint":"liege ls"}]}`, ""},
		{"wait shop applied", 1, "", "liege: shop: will not be applied: it is failed\n  /v/shop.ini:3: processes: no number\n  hint: processes = 2\n"},
		{"wait shop applied --json", 1, `{"problems":[` + problem + `]}`, ""},
		{"wait shop failed", 0, "shop: failed, generation 1", ""},
		{"wait shop failed --json", 0, `{"problems":[]}`, ""},
		{"reload shop", 1, "", "liege: shop: reload: failed\n  /v/shop.ini:3: processes: no number\n  hint: processes = 2\n"},
		{"reload shop --json", 1, `[{"name":"shop","ok":false,"problem":` + problem + `}]`, ""},
		{"reload halt", 1, "", "liege: halt: reload: failed\n  /v/shop.ini:3: processes: no number\n  hint: processes = 2\n"},
		{"reload h*", 0, "halt: is stopped, and left alone\n", ""},
		{"stop shop --json", 0, `[{"name":"shop","ok":true,"problem":null}]`, ""},
		{"stop --all shop --json", 64, `{"problems":[{"severity":"error","code":"usage","file":null,"line":null,"key":null,"step":null,"message":"stop: names and --all together","hint":null}]}`, ""},
		{"stop shop --json --run-dir " + dir + "/none", 69, `{"problems":[{"severity":"error","code":"no-emperor"`, ""},
	} {
		var out, said bytes.Buffer
		args := strings.Fields(tt.args)
		if !strings.Contains(tt.args, "--run-dir") {
			args = append(args, "--run-dir", dir)
		}
		code := run(t.Context(), args, stdio{strings.NewReader(""), &out, &said})
		if got := out.String(); code != tt.code || !strings.HasPrefix(got, tt.out) || tt.out == "" && got != "" || said.String() != tt.err {
			t.Errorf("%s: %d\n%s\n%s", tt.args, code, got, &said)
		}
	}
}
