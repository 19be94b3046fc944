package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/control"
	"liege/vassal"
	"liege/vassal/regular"
)

// defaultTimeout is how long a command waits for its wish (CONTRACT 13).
const defaultTimeout = 60 * time.Second

// actCmds are the commands that change what runs.
func (a *app) actCmds() []*cobra.Command {
	cmds := []*cobra.Command{
		a.act(control.Reload, "a new generation; the old one serves until it is ready"),
		a.act(control.Restart, "end the generation that runs, then start one"),
		a.act(control.Stop, "drain it and keep it stopped, over reboots too"),
		a.act(control.Start, "start what was stopped; try again at once"),
		a.act(control.Resume, "serve again after suspend"),
	}
	return append(cmds, a.suspendCmd())
}

func (a *app) act(verb control.Verb, short string) *cobra.Command {
	req := control.Request{Verb: verb}
	c := &cobra.Command{
		Use: string(verb) + " NAME…", Short: short, ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error { return a.do(cmd, req, args) },
	}
	return a.controlFlags(a.actFlags(c, &req))
}

func (a *app) actFlags(c *cobra.Command, req *control.Request) *cobra.Command {
	c.Flags().BoolVar(&req.All, "all", false, "every vassal")
	c.Flags().BoolVar(&req.NoWait, "no-wait", false, "return at once")
	c.Flags().DurationVar(&req.Timeout, "timeout", defaultTimeout, "how long to wait")
	return c
}

func (a *app) suspendCmd() *cobra.Command {
	req := control.Request{Verb: control.Suspend}
	var page string
	c := &cobra.Command{
		Use: "suspend NAME…", Short: "end its processes and answer every request with --status, over reboots too",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Status < 400 || req.Status > 599 {
				return usageError(fmt.Sprintf("--status %d: want 400 to 599", req.Status), "")
			}
			if page != "" {
				text, err := readPage(page)
				if err != nil {
					return err
				}
				req.Page = text
			}
			return a.do(cmd, req, args)
		},
	}
	c.Flags().IntVar(&req.Status, "status", 503, "the HTTP status to answer")
	c.Flags().StringVar(&page, "page", "", "a file to answer with")
	c.Flags().StringVar(&req.Reason, "reason", "", "why; shown in status")
	return a.controlFlags(a.actFlags(c, &req))
}

// maxPage keeps a page, in base64, within one request line.
const maxPage = 40 << 10

func readPage(file string) ([]byte, error) {
	f, err := regular.Open(file)
	if err != nil {
		return nil, exitWith(exitNone, vassal.CodeNotFound, "--page "+err.Error(), "")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err != nil {
		return nil, exitWith(exitFailed, vassal.CodeUnreadable, "--page "+err.Error(), "")
	}
	if len(text) > maxPage {
		return nil, usageError(fmt.Sprintf("--page %s: longer than %d bytes", file, maxPage), "")
	}
	return text, nil
}

// outcome is one vassal's line of an act command's JSON.
type outcome struct {
	Name    string          `json:"name"`
	OK      bool            `json:"ok"`
	Problem *vassal.Problem `json:"problem"`
}

// do sends an act request and tells how it went for each vassal.
func (a *app) do(cmd *cobra.Command, req control.Request, args []string) error {
	if len(args) == 0 && !req.All {
		return usageError(string(req.Verb)+": which vassal?", fmt.Sprintf("liege %s NAME, or --all", req.Verb))
	}
	if len(args) > 0 && req.All {
		return usageError(string(req.Verb)+": names and --all together", "")
	}
	req.Names = names(args)
	all := []outcome{}
	err := control.Call(cmd.Context(), control.Socket(a.runDir), req, func(r control.Reply) error {
		all = append(all, outcome{r.Name, r.OK, r.Problem})
		if !a.json {
			a.tell(r)
		}
		return nil
	})
	if !a.json || err != nil && len(all) == 0 { // the request as a whole failed
		return err
	}
	if e, ok := errors.AsType[*control.Error](err); err != nil && !(ok && e.Said) { // the rest is not known
		all = append(all, outcome{Problem: vassal.AsProblems(err, "", vassal.CodeNotDone).First()})
	}
	if e := json.NewEncoder(a.out).Encode(all); e != nil {
		return e
	}
	if err != nil {
		return &exit{code: control.ExitCode(err), shown: true}
	}
	return nil
}

// tell prints how it went for one vassal, for people.
func (a *app) tell(r control.Reply) {
	if r.OK {
		fmt.Fprintln(a.out, r.Text)
		return
	}
	fmt.Fprintf(a.err, "liege: %s\n", r.Text)
	if r.Problem != nil {
		if said := r.Problem.Error(); !strings.Contains(r.Text, said) && r.Problem.Code != vassal.CodeNoSuchVassal {
			fmt.Fprintf(a.err, "  %s\n", said)
		}
		printHint(a.err, r.Problem.Hint)
	}
}

func (a *app) waitCmd() *cobra.Command {
	req := control.Request{Verb: control.Wait}
	c := &cobra.Command{
		Use: "wait NAME applied|gone|STATE", Short: "wait until a vassal is so far",
		Long: "Wait until the file's present content serves (applied), the vassal is gone, or it is in a state.\nEnds at once with 1 when that cannot come without another edit.",
		Args: usage(cobra.ExactArgs(2)), ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Names, req.Goal = names(args[:1]), args[1]; !control.ValidGoal(req.Goal) {
				return usageError("wait: "+req.Goal+": want applied, gone or a state", "liege help wait")
			}
			var why vassal.Problems
			err := control.Call(cmd.Context(), control.Socket(a.runDir), req, func(r control.Reply) error {
				if !a.json {
					a.tell(r)
				}
				if r.Problem != nil {
					why = append(why, *r.Problem)
				}
				return nil
			})
			if !a.json {
				return err
			}
			if e, ok := errors.AsType[*control.Error](err); ok && e.Said && len(why) > 0 {
				return &exit{code: e.Code, problems: why}
			}
			if err != nil {
				return err
			}
			return json.NewEncoder(a.out).Encode(map[string]any{"problems": nonNil(why)})
		},
	}
	c.Flags().DurationVar(&req.Timeout, "timeout", 10*time.Second, "how long to wait")
	return a.controlFlags(c)
}
