_base_ = 'mmseg::_base_/default_runtime.py'

# The one place that registers RAVLT and MALA: two base files that both did so would clash.
custom_imports = dict(imports=['ralamala_mm'], allow_failed_imports=False)
