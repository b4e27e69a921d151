"""The SCSI logical unit, sans I/O: CDBs in, status, data and sense out, over a ``Storage``.

A front end needs ``task`` (``Task``, ``Nexus``, ``data_out_length``) and ``target.Target``:

    target = Target()
    target.add(0, LogicalUnit(storage, serial="…"))  # LUN 0
    nexus = MyNexus("iqn.…", "00023d000001", target)  # one per session
    target.attach(nexus)                              # after login
    target.unit(lun_field).execute(task)              # lun_field: the 8 bytes as one integer
    target.detach(nexus)                              # the session ended; its tasks were aborted

Task management: ``unit.abort_task(task, done)``, ``unit.abort_task_set(nexus, done)``,
``unit.clear_task_set(nexus, done)``, ``unit.reset(nexus, done)``, ``target.reset(nexus, done)``;
``done()`` is called when the aborted tasks have settled on the local volume and the response may
be sent. ``target.unit`` of a LUN that is not there gives a unit that answers as SPC-4 wants.
"""
