// Command bench measures Liege side by side with what it succeeds, in one run,
// round by round in turn: what counts is the ratio, since no two machines and
// no two minutes are alike. It needs root, uwsgi, nginx and wrk, listens on
// loopback alone, and ends by itself.
//
//	make bench                 all of it
//	make bench ARGS=start      one of: start, memory, workers, sleeping, wsgi, flask, asgi, rack, psgi,
//	                           php, node, static, cgi, routes, proxy
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var b bench
	flag.StringVar(&b.bin, "bin", "bin", "directory of the built programs")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of each measurement")
	flag.DurationVar(&b.load, "load", 2*time.Second, "how long one load lasts")
	flag.IntVar(&b.vassals, "vassals", 30, "vassals for the memory measurement")
	flag.IntVar(&b.sleepers, "sleepers", 10000, "vassals that sleep")
	flag.Parse()
	if err := b.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin      string
	rounds   int
	load     time.Duration
	vassals  int
	sleepers int
	dir      string
}

func (b *bench) run(ctx context.Context, what []string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it starts Emperors")
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("/srv", "liege-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := errors.Join(os.Chmod(b.dir, 0o755), b.files()); err != nil {
		return err
	}
	leave, err := b.memoryDir()
	if err != nil {
		return err
	}
	defer leave()
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"start", b.start}, {"memory", b.memory}, {"workers", b.workers}, {"sleeping", b.sleeping},
		{"wsgi", b.wsgi}, {"flask", b.flask}, {"asgi", b.asgi}, {"rack", b.rack}, {"psgi", b.psgi}, {"php", b.php}, {"node", b.node},
		{"static", b.static}, {"cgi", b.cgi}, {"routes", b.routes}, {"proxy", b.proxying},
	} {
		if len(what) > 0 && !slices.Contains(what, m.name) {
			continue
		}
		if err := m.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// runDir is the run directory of an Emperor of this name.
func (b *bench) runDir(name string) string { return filepath.Join(b.dir, "run", name) }

// memoryDir makes the directory of the run directories, in memory as /run is.
func (b *bench) memoryDir() (leave func(), err error) {
	dir := filepath.Join(b.dir, "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return nil, fmt.Errorf("%s: a file system in memory: %w", dir, err)
	}
	return func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }, nil // it goes with the directory
}

// files writes the app and the static files.
func (b *bench) files() error {
	if err := os.Mkdir(filepath.Join(b.dir, "app"), 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(b.dir, "app/app.py"), []byte(rawWSGI), 0o644),
		os.WriteFile(filepath.Join(b.dir, "app/4k.bin"), make([]byte, 4<<10), 0o644),
		os.WriteFile(filepath.Join(b.dir, "app/1m.bin"), make([]byte, 1<<20), 0o644),
	)
}

// series are one contender's figures.
type series []float64

func (s series) median() float64 {
	t := slices.Sorted(slices.Values(s))
	return t[len(t)/2]
}

func (s series) String() string {
	return fmt.Sprintf("%8.1f  (%.1f to %.1f)", s.median(), slices.Min(s), slices.Max(s))
}

// compare prints two series and their ratio.
func compare(title, unit string, ours, peers series, peer string, lessIsBetter bool) {
	ratio := ours.median() / peers.median()
	word := "times as much"
	if lessIsBetter {
		word = "of it"
	}
	fmt.Printf("%s\n  %-18s %s %s\n  %-18s %s %s\n  ratio              %8.2f %s\n\n", title, "liege", ours, unit, peer, peers, unit, ratio, word)
}
