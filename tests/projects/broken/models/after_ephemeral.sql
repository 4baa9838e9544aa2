select number from {{ ref('reads_ephemeral') }} union all select number from {{ ref('solid') }}
