package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"liege/emperor/control"
)

func (a *app) enterCmd() *cobra.Command {
	var root bool
	c := &cobra.Command{
		Use: "enter [--root] NAME [-- COMMAND…]", Short: "a shell, or a command, in the sandbox of a vassal",
		Long: "Runs a command, else a login shell, beside the application: as its user, with its file system, network, environment\n" +
			"and limits, and with no more rights than it has. It ends with the generation that runs, and with this command.\n" +
			"A vassal that sleeps is started first. Exits with the command's own code. Only root may do that.\n" +
			"With --root, as root of the sandbox, where that is nobody on the host (namespaces = user).",
		Args: usage(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json {
				return usageError("enter: --json makes no sense", "")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			s := &session{ctx: ctx, socket: control.Socket(a.runDir),
				req: control.Request{Verb: control.Enter, Names: names(args[:1]), Command: command, Root: root, Term: os.Getenv("TERM")}}
			run := s.piped
			if onTerminal(0) && onTerminal(1) {
				run = s.onConsole
			}
			if err := run(); err != nil {
				return err
			}
			if s.code != 0 {
				return &exit{code: s.code, shown: true}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&root, "root", false, "as root of the sandbox, not as the vassal's user")
	c.Flags().SetInterspersed(false) // what follows NAME is the command's
	return a.controlFlags(c)
}

// session is one stay in a sandbox.
type session struct {
	ctx    context.Context
	socket string
	req    control.Request
	code   int
}

// call asks the Emperor and returns when the command has ended.
func (s *session) call(files ...*os.File) error {
	return control.CallWith(s.ctx, s.socket, s.req, files, func(r control.Reply) error {
		s.code = r.Code
		return nil
	})
}

// piped gives the command pipes and passes on what goes through them. Nothing
// of the caller's own goes in: with a descriptor of its terminal a tenant could
// type there.
func (s *session) piped() error {
	var inside, outside [3]*os.File
	for i := range inside {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if inside[i], outside[i] = w, r; i == 0 {
			inside[i], outside[i] = r, w
		}
	}
	go func() {
		_, _ = io.Copy(outside[0], os.Stdin) // until one of them has enough
		outside[0].Close()
	}()
	var output sync.WaitGroup
	output.Go(func() { _, _ = io.Copy(os.Stdout, outside[1]) })
	output.Go(func() { _, _ = io.Copy(os.Stderr, outside[2]) })
	err := s.call(inside[:]...)
	for _, f := range inside {
		f.Close()
	}
	output.Wait() // nobody is left inside who could write
	return err
}

// onConsole gives the command a pseudo-terminal of the sandbox's own. The
// caller's is not known inside, and is set back at the end.
func (s *session) onConsole() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	near, far := os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console")
	defer near.Close()
	restore, err := makeRaw(0)
	if err != nil {
		return err
	}
	defer restore()
	s.req.Console = true
	shown, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(shown)
		if pty := receiveConsole(near); pty != nil {
			passOn(pty, over)
		}
	}()
	err = s.call(far)
	far.Close() // if none was sent, none comes
	close(over)
	<-shown
	return err
}

// restTime is how long what a command has written last may take to come. Its
// terminal may not end with it: who has its user can open it, and would see what is
// typed.
const restTime = 200 * time.Millisecond

// receiveConsole waits for the near end of the pseudo-terminal; nil: none
// comes.
func receiveConsole(from *os.File) *os.File {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, o, _, _, err := unix.Recvmsg(int(from.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return nil
	}
	ms, err := unix.ParseSocketControlMessage(oob[:o])
	if err != nil || len(ms) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&ms[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	_ = unix.SetNonblock(fds[0], true) // else a read of it could not be ended
	return os.NewFile(uintptr(fds[0]), "pseudo-terminal")
}

// passOn passes on what is typed and shown, and the size of the window, until
// nobody has the other end open, or a moment after it is over.
func passOn(pty *os.File, over <-chan struct{}) {
	defer pty.Close() // which hangs up whoever has
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	done := make(chan struct{})
	defer close(done)
	raw, err := pty.SyscallConn()
	if err != nil {
		return
	}
	resize := func() {
		if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
		}
	}
	resize()
	go func() {
		for {
			select {
			case <-resized:
				resize()
			case <-over:
				_ = pty.SetReadDeadline(time.Now().Add(restTime))
				over = nil
			case <-done:
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(pty, os.Stdin) }() // ends with the process: a read of a terminal does not
	_, _ = io.Copy(os.Stdout, pty)                // EIO when the last one inside has closed it
}

func onTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// makeRaw has every key arrive as it is (termios(3), cfmakeraw).
func makeRaw(fd int) (restore func(), err error) {
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *was
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }, nil
}
