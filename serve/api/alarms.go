package api

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker"
	"liege/vassal"
)

// Bounds of alarms.
const (
	alarmFreq   = 3 * time.Second // between two equal ones, where the file does not say: uWSGI's
	alarmSize   = 8192            // bytes of one, likewise
	alarmQueue  = 64              // commands that wait
	alarmAtOnce = 2               // commands that run
	alarmTime   = time.Minute     // that a command may take
	faultQueue  = 16              // ends of processes that wait
)

// alarms are the alarms of the file's lines.
type alarms struct {
	mu     sync.Mutex
	last   []lastAlarm // of each
	queued chan raisedAlarm
	lines  []lineAlarm // in order
	faults chan string // of processes
}

// lineAlarm is a line of log-alarm or not-log-alarm.
type lineAlarm struct {
	*vassal.LogAlarm
	match *regexp.Regexp
}

// lastAlarm is what an alarm has said last.
type lastAlarm struct {
	text string
	at   time.Time
	lost int       // since that was said,
	said time.Time // which is then
}

// raisedAlarm is one whose command is to run.
type raisedAlarm struct {
	by   *vassal.Alarm
	text string
}

func (a *alarms) init(j *vassal.Jobs) {
	a.last, a.queued = make([]lastAlarm, len(j.Alarms)), make(chan raisedAlarm, alarmQueue)
	a.faults = make(chan string, faultQueue)
	for i := range j.LogAlarms {
		x := &j.LogAlarms[i]
		if re, err := regexp.Compile(x.Match); err == nil { // the decoder has done so
			a.lines = append(a.lines, lineAlarm{x, re})
		}
	}
}

// line raises the alarms of a line that the application has written. What the
// alarms say themselves, and their commands, never comes here.
func (h *Host) line(line []byte) {
	for i := range h.alarms.lines {
		switch x := &h.alarms.lines[i]; {
		case !x.match.Match(line):
		case x.Not:
			return
		default:
			for _, name := range x.Names {
				h.Alarm(name, string(line))
			}
		}
	}
}

// Alarm raises the alarms that are called name; it does not wait for what they
// do. The same text within alarm-freq is no second alarm. Without an alarm of
// that name it is a line in the log.
func (h *Host) Alarm(name, text string) {
	most := h.jobs.AlarmSize
	if most <= 0 {
		most = alarmSize
	}
	text = text[:min(len(text), most)]
	known := false
	for i := range h.jobs.Alarms {
		a := &h.jobs.Alarms[i]
		if a.Name != name {
			continue
		}
		known = true
		if h.again(i, text) {
			continue
		}
		if err := h.tell(a, text); err != nil {
			h.lost(i, text, err)
		}
	}
	if !known {
		h.log.Warn("alarm", "name", clip(name), "text", clip(text), "err", "no alarm line has this name")
	}
}

// lost says that alarm i did not reach whom it is for, once in alarmFreq: a flood of
// lines that raise it must not become two.
func (h *Host) lost(i int, text string, err error) {
	h.alarms.mu.Lock()
	defer h.alarms.mu.Unlock()
	last, now := &h.alarms.last[i], time.Now()
	if last.lost++; !last.said.IsZero() && now.Sub(last.said) < alarmFreq {
		return
	}
	a := &h.jobs.Alarms[i]
	h.log.Warn("an alarm is lost", "name", a.Name, "file", a.At.File, "line", a.At.Line, "text", clip(text), "times", last.lost, "err", err)
	last.lost, last.said = 0, now
}

// again reports whether alarm i has said the same a moment ago.
func (h *Host) again(i int, text string) bool {
	freq := h.jobs.AlarmFreq
	if freq <= 0 {
		freq = alarmFreq
	}
	h.alarms.mu.Lock()
	defer h.alarms.mu.Unlock()
	last, now := &h.alarms.last[i], time.Now()
	if !last.at.IsZero() && last.text == text && now.Sub(last.at) < freq {
		return true
	}
	last.text, last.at = text, now
	return false
}

// tell does what an alarm is for.
func (h *Host) tell(a *vassal.Alarm, text string) error {
	switch {
	case a.Command != "":
		select {
		case h.alarms.queued <- raisedAlarm{a, text}:
		default:
			return fmt.Errorf("%d commands of alarms wait already", alarmQueue)
		}
	case a.Signal != nil:
		return h.Signal(*a.Signal)
	case a.Mule > 0:
		b := &h.boxes
		switch {
		case a.Mule >= len(b.mules): // the decoder says so
			return fmt.Errorf("there is no mule %d", a.Mule)
		case len(text) > b.message:
			text = text[:b.message]
		}
		if !b.put(&b.mules[a.Mule], item{'m', []byte(text)}) {
			return fmt.Errorf("too many messages wait for mule %d", a.Mule)
		}
	default:
		h.log.Warn("alarm", "name", a.Name, "text", clip(text))
	}
	return nil
}

// runAlarms runs the commands of alarms, until ctx ends.
func (h *Host) runAlarms(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for range alarmAtOnce {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case x := <-h.alarms.queued:
					if err := h.runAlarm(ctx, x); err != nil {
						h.log.Error("the command of an alarm failed", "name", x.by.Name, "file", x.by.At.File, "line", x.by.At.Line, "err", err)
					}
				}
			}
		})
	}
}

// runAlarm runs the command of an alarm, with the text as its input.
func (h *Host) runAlarm(ctx context.Context, x raisedAlarm) error {
	in, err := inMemory(x.text)
	if err != nil {
		return err
	}
	defer in.Close()
	p, err := h.pool.Start(&worker.Program{Path: "/bin/sh", Argv: []string{"sh", "-c", x.by.Command}, Env: h.pool.Environ(),
		Dir: h.app.Dir, Files: [3]*os.File{in, h.Stdout, h.Stdout}, Limits: h.jobs.Limits})
	if err != nil {
		return err
	}
	late := time.NewTimer(alarmTime)
	defer late.Stop()
	var ws syscall.WaitStatus
	select {
	case ws = <-p.Status:
	case <-late.C:
		p.Kill()
		<-p.Status
		return fmt.Errorf("it took longer than %v and was killed", alarmTime)
	case <-ctx.Done():
		p.Kill() // the pool's end reaps it
		return fmt.Errorf("it was killed: the vassal's generation ends")
	}
	if ws.ExitStatus() != 0 {
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}

// inMemory is a file that holds text, to be read from its beginning: unlike a
// pipe it takes all of it without a reader.
func inMemory(text string) (*os.File, error) {
	fd, err := unix.MemfdCreate("alarm", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "alarm")
	if _, err = f.WriteString(text); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fault takes a line about the end of a process. It never waits: of more than
// faultQueue at once the others are in the log alone, as each of them is.
func (a *alarms) fault(text string) {
	select {
	case a.faults <- text:
	default:
	}
}

// watchFaults raises the alarms of processes that ended by a fault, until ctx ends.
func (h *Host) watchFaults(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case text := <-h.alarms.faults:
			for _, name := range h.jobs.OnCrash {
				h.Alarm(name, text)
			}
		}
	}
}

// watchQueue raises the alarms of a full queue, until ctx ends.
func (h *Host) watchQueue(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if text := h.Full(); text != "" {
				for _, name := range h.jobs.OnFull {
					h.Alarm(name, text)
				}
			}
		}
	}
}
