package vassal

import (
	"path"
	"time"
)

// Jobs is what a vassal does beside answering requests, and what its processes
// share: uWSGI's mules, spoolers, crons, signals and locks. They
// belong to the vassal: one generation at a time runs them.
type Jobs struct {
	Mules    []Mule    `json:"mules,omitempty"`
	Farms    []Farm    `json:"farms,omitempty"`
	Spoolers []Spooler `json:"spoolers,omitempty"`
	Spool    Spool     `json:"spool,omitzero"`
	Crons    []Cron    `json:"crons,omitempty"`
	Timers   []Timer   `json:"timers,omitempty"`
	Touches  []Touch   `json:"touches,omitempty"`
	Alarms   []Alarm   `json:"alarms,omitempty"`
	Locks    int       `json:"locks,omitempty"` // beside lock 0, which is always there
	Queue    Queue     `json:"queue,omitzero"`

	CronHarakiri time.Duration `json:"cron_harakiri,omitempty"`
	MuleHarakiri time.Duration `json:"mule_harakiri,omitempty"` // longest message or signal
	MuleMercy    time.Duration `json:"mule_mercy,omitempty"`    // for a mule to end; 0: the default
	MuleMessage  int           `json:"mule_message,omitempty"`  // longest message, in bytes; 0: 65536

	AlarmFreq time.Duration `json:"alarm_freq,omitempty"` // between two equal alarms; 0: 3 s
	AlarmSize int           `json:"alarm_size,omitempty"` // longest text, in bytes; 0: 8192
	OnFull    []string      `json:"on_full,omitempty"`    // alarms of a full queue of requests
	OnCrash   []string      `json:"on_crash,omitempty"`   // alarms of a process that ended by a fault of its own
	LogAlarms []LogAlarm    `json:"log_alarms,omitempty"` // of lines that the app writes, in order

	// Limits are those of the app: of cron commands.
	Limits *ProcessLimits `json:"limits,omitempty"`
}

// QueueBlock is the size of a message of a queue where none is named, in bytes.
const QueueBlock = 8192

// Queue is a ring of messages that the vassal's processes share.
type Queue struct {
	Items int `json:"items,omitempty"` // 0: there is none
	Block int `json:"block,omitempty"` // bytes of a message, at most; 0: QueueBlock
}

// Mule is a process for background work.
type Mule struct {
	Run string `json:"run,omitempty"` // a file that ends in .py, or module:function; empty: it serves messages and signals
	At  Origin `json:"at"`
}

// Farm is a named group of mules that share a queue.
type Farm struct {
	Name  string `json:"name"`
	Mules []int  `json:"mules"` // numbers from 1
	At    Origin `json:"at"`
}

// Spooler is a directory of tasks.
type Spooler struct {
	Dir      string `json:"dir"`
	External bool   `json:"external,omitempty"` // others work on them
	At       Origin `json:"at"`
}

// In is the directory, which is below dir if it is relative.
func (s *Spooler) In(dir string) string {
	if path.IsAbs(s.Dir) {
		return path.Clean(s.Dir)
	}
	return path.Join("/", dir, s.Dir)
}

// Spool is how the spoolers work.
type Spool struct {
	Processes int           `json:"processes,omitempty"` // of each directory; 0: 1
	Ordered   bool          `json:"ordered,omitempty"`   // by name, and priorities
	Dir       string        `json:"dir,omitempty"`       // spooler-chdir
	Quiet     bool          `json:"quiet,omitempty"`
	MaxTasks  int           `json:"max_tasks,omitempty"` // of a process, then it is replaced
	Frequency time.Duration `json:"frequency,omitempty"` // between two looks; 0: 30 s
	Harakiri  time.Duration `json:"harakiri,omitempty"`
	Import    []string      `json:"import,omitempty"` // modules or files, in the spoolers only
}

// Cron is a command that runs at given times: a field that is -1 is any, -n is
// each n-th.
type Cron struct {
	Minute   int           `json:"minute"`
	Hour     int           `json:"hour"`
	Day      int           `json:"day"`
	Month    int           `json:"month"`
	Week     int           `json:"week"` // 0: Sunday
	Command  string        `json:"command"`
	Unique   bool          `json:"unique,omitempty"` // not while it still runs
	Harakiri time.Duration `json:"harakiri,omitempty"`
	At       Origin        `json:"at"`
}

// Timer raises a signal at an interval.
type Timer struct {
	Signal int           `json:"signal"`
	Every  time.Duration `json:"every"`
	At     Origin        `json:"at"`
}

// Touch does something when a path changes: exactly one of Signal, Exec, Mules
// and Spoolers is set.
type Touch struct {
	Path     string `json:"path"`
	Signal   *int   `json:"signal,omitempty"`
	Exec     string `json:"exec,omitempty"`
	Mules    bool   `json:"mules,omitempty"`    // replace them
	Spoolers bool   `json:"spoolers,omitempty"` // replace them
	At       Origin `json:"at"`
}

// Alarm says whom to tell when an alarm is raised: at most one of Command,
// Signal and Mule is set, and without any it is the log.
type Alarm struct {
	Name    string `json:"name"`
	Command string `json:"command,omitempty"` // for the shell; the text is its input
	Signal  *int   `json:"signal,omitempty"`
	Mule    int    `json:"mule,omitempty"` // from 1
	At      Origin `json:"at"`
}

// LogAlarm raises alarms when the app writes a line that matches.
type LogAlarm struct {
	Names []string `json:"names"`
	Match string   `json:"match"`         // an expression of Go's regexp
	Not   bool     `json:"not,omitempty"` // what matches raises none of those that follow
	At    Origin   `json:"at"`
}

// Due reports whether the cron runs in the minute of t: the fields are t's
// own, or any that a negative one divides. As in uWSGI and crontab(5), where
// both day and week are given one of them is enough.
func (c *Cron) Due(t time.Time) bool {
	is := func(field, now int) bool {
		if field < 0 {
			return now%-field == 0
		}
		return field == now
	}
	day, week := is(c.Day, t.Day()), is(c.Week%7, int(t.Weekday()))
	if c.Week < 0 {
		week = is(c.Week, int(t.Weekday()))
	}
	if !is(c.Minute, t.Minute()) || !is(c.Hour, t.Hour()) || !is(c.Month, int(t.Month())) {
		return false
	}
	if c.Day >= 0 && c.Week >= 0 {
		return day || week
	}
	return day && week
}
