// Command liege is the only command of Liege that a person types. It asks a
// running Emperor over its control socket, checks and explains vassal files,
// and starts the other programs: "liege emperor" and "liege serve" become
// liege-emperor and liege-core, found beside it or in ../libexec/liege.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"liege/emperor/asuser"
)

// version is set by the linker.
var version = "unknown"

func main() {
	asuser.Main() // this process may be a child of liege serve
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// stdio is where a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, io stdio) int {
	app := &app{stdio: stdio{io.in, &shown{w: io.out}, &shown{w: io.err}}, raw: io}
	root := app.root()
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(app.out)
	root.SetErr(app.err)
	return app.finish(root.ExecuteContext(ctx))
}

// app is what the commands share.
type app struct {
	stdio
	raw    stdio // for what is not text for people
	runDir string
	json   bool
}

const defaultRunDir = "/run/liege"

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "liege",
		Short:             "an Emperor for web applications",
		Long:              "Liege runs web applications: one ini file in /etc/vassals is one application, in a sandbox of its own.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:              noSuchCommand,
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(flagError(err), "liege help "+cmd.Name())
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "look", Title: "Look:"}, &cobra.Group{ID: "act", Title: "Act on vassals:"}, &cobra.Group{ID: "files", Title: "Files:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.emperorCmd(), a.handoverCmd(), a.serveCmd())
	add("look", a.lsCmd(), a.statusCmd(), a.logsCmd(), a.waitCmd(), a.enterCmd(), a.versionCmd())
	add("act", a.actCmds()...)
	add("files", a.checkCmd(), a.explainCmd(), a.optionsCmd(), a.policyCmd(), a.pluginCmd())
	root.SetHelpCommand(a.helpCmd(root))
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil { // which prints its help, whatever the shell
		c.RunE, c.Args = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, noSuchShell
	}
	return root
}

// flagError is what is wrong with a flag, without the words of the packages that
// read numbers and times.
func flagError(err error) string {
	text, why, ok := strings.Cut(err.Error(), " flag: ")
	switch {
	case !ok:
		return err.Error()
	case strings.HasPrefix(why, "strconv.ParseBool"):
		return text + ": want true or false"
	case strings.HasPrefix(why, "strconv."):
		return text + ": want a number"
	case strings.HasPrefix(why, "time: "):
		return text + ": want a time, such as 500ms, 10s or 2m"
	}
	return err.Error()
}

// noSuchCommand answers a word that is no command.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "liege help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = cmd.CommandPath() + " " + near[0]
	}
	for _, r := range []string{"events", "usage", "top", "apply", "learn", "import"} {
		if args[0] == r {
			return usageError(args[0]+": comes in a later release", "liege help")
		}
	}
	return usageError("no such command: "+args[0], hint)
}

// noSuchShell answers a word behind completion that is no shell it knows.
func noSuchShell(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError("completion: "+args[0]+": want bash, fish, powershell or zsh", "liege help completion")
}

// controlFlags are those of every command that asks the Emperor.
func (a *app) controlFlags(c *cobra.Command) *cobra.Command {
	dir := os.Getenv("LIEGE_RUN_DIR")
	if dir == "" {
		dir = defaultRunDir
	}
	c.Flags().StringVar(&a.runDir, "run-dir", dir, "the Emperor's run directory ($LIEGE_RUN_DIR)")
	return a.jsonFlag(c)
}

func (a *app) jsonFlag(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.json, "json", false, "for machines")
	return c
}

// helpCmd is help for a command, and for an option of the ini language.
func (a *app) helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | OPTION]",
		Short: "help for a command, or for an option of the ini language",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return root.Help()
			}
			if c, _, err := root.Find(args); err == nil && c != root {
				return c.Help()
			}
			return a.option(args[0])
		},
	}
}
